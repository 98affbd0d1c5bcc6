import { configure } from "@testing-library/react";

// A slow run on a busy machine is not a failure.
configure({ asyncUtilTimeout: 60_000 });
