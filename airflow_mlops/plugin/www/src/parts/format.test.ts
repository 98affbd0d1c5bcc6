import { describe, expect, it } from "vitest";

import { ago, moment, number, percent, pValue, share } from "./format";

describe("values as text", () => {
  it("keeps three significant digits of a fraction and all digits of a count", () => {
    expect(number(0.70612)).toBe("0.706");
    expect(number(12345)).toBe("12,345");
    expect(number(0)).toBe("0");
    expect(number(-0)).toBe("0");
    expect(number(null)).toBe("–");
  });
  it("never rounds a share up to 100%", () => {
    expect(percent(0.9999)).toBe("99%");
    expect(percent(1)).toBe("100%");
    expect([percent(0.29), percent(0.57), percent(0.58)]).toEqual(["29%", "57%", "58%"]);
    expect(percent(0.001)).toBe("< 1%");
    expect(percent(null)).toBe("–");
  });
  it("never shows a small share or p value as zero", () => {
    expect([share(0), share(0.0004), share(0.0999)]).toEqual(["0.0%", "< 0.1%", "10.0%"]);
    expect([pValue(0), pValue(0.0123)]).toEqual(["p < 0.001", "p = 0.012"]);
  });
  it("names a time in UTC, and how long ago it was", () => {
    expect(moment("2013-04-01T02:00:00+02:00")).toBe("2013-04-01");
    expect(moment("2013-04-01T06:30:00Z")).toBe("2013-04-01 06:30 UTC");
    expect(ago("2013-04-01T00:00:00Z", Date.parse("2013-04-03T01:00:00Z"))).toBe("2 days ago");
    expect(ago("not a time")).toBe("not a time");
  });
});
