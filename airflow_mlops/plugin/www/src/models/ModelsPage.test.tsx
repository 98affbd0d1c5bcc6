import { ChakraProvider, defaultSystem } from "@chakra-ui/react";
import { cleanup, render, screen } from "@testing-library/react";
import { MemoryRouter } from "react-router-dom";
import { afterEach, expect, it, vi } from "vitest";

import { overview } from "../fixtures";
import { ModelsPage } from "./ModelsPage";

afterEach(cleanup);

const answer = (status: number, body: unknown) =>
  vi.stubGlobal("fetch", () => Promise.resolve(new Response(JSON.stringify(body), { status })));

const show = (query = "") => {
  vi.spyOn(HTMLElement.prototype, "clientWidth", "get").mockReturnValue(1200);
  render(
    <ChakraProvider value={defaultSystem}>
      <MemoryRouter initialEntries={[`/plugin/mlops${query}`]}>
        <ModelsPage />
      </MemoryRouter>
    </ChakraProvider>,
  );
};

it("shows planted markup as text", async () => {
  const planted = "<script>window.planted = 1</script>";
  const model = overview(planted, "retrain", { owner: planted, tags: [planted], problems: [planted] });
  model.monitoring!.headline = planted;
  answer(200, { models: [model], problems: [`${planted}!`] });
  show();
  expect((await screen.findByRole("link", { name: planted })).getAttribute("href")).toBe(
    `/plugin/mlops/${encodeURIComponent(planted)}`,
  );
  expect(screen.getByText(`${planted}!`)).toBeTruthy();
  expect(document.querySelector("script")).toBeNull();
});

it("shows one page of 500 models, and says how many there are", async () => {
  answer(200, { models: Array.from({ length: 500 }, (_, index) => overview(`model_${index}`)), problems: [] });
  show("?sort=name&page=2");
  expect(await screen.findByText("500 models")).toBeTruthy();
  expect(screen.getAllByRole("row")).toHaveLength(51);
  expect(screen.getByRole("link", { name: "model_50" })).toBeTruthy();
});

it("shows the error in place of the models", async () => {
  answer(502, { detail: "The artifact store cannot be read." });
  show();
  expect((await screen.findByRole("alert")).textContent).toContain("The artifact store cannot be read.");
});
