import { defineConfig } from "vite";

export default defineConfig({
  build: {
    target: "es2022",
    // The page's policy allows no data: URL but pictures, so nothing is inlined.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  // While developing, the API comes from `medgemma serve` or `npm run mock`, both on this port.
  server: { proxy: { "/v1": process.env.MEDGEMMA_URL ?? "http://127.0.0.1:8080" } },
});
