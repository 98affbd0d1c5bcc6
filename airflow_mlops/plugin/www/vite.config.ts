import { defineConfig } from "vitest/config";

// Airflow's UI provides these libraries as globals, so the bundle does not contain them.
const AIRFLOW_PROVIDES = {
  react: "React",
  "react-dom": "ReactDOM",
  "react/jsx-runtime": "ReactJSXRuntime",
  "react-router-dom": "ReactRouterDOM",
  "@chakra-ui/react": "ChakraUI",
  "@emotion/react": "EmotionReact",
};

export default defineConfig(({ mode }) => ({
  define: mode === "production" ? { "process.env.NODE_ENV": JSON.stringify("production") } : {},
  build: {
    target: "es2022",
    lib: { entry: "src/main.tsx", formats: ["iife"], name: "AirflowMLOps", fileName: () => "models.js" },
    rollupOptions: {
      external: Object.keys(AIRFLOW_PROVIDES),
      output: { globals: AIRFLOW_PROVIDES },
    },
  },
  test: {
    environment: "happy-dom",
    include: ["src/**/*.test.{ts,tsx}"],
    setupFiles: "src/testing/setup.ts",
    // One process imports ChakraUI once, and CI runs other tests beside it.
    maxWorkers: 1,
    isolate: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
}));
