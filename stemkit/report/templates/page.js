// Decodes the pictures into the image of the view, and adapts the colours of the figures to a dark page.
(async () => {
  const models = async () => {
    for (;;) {
      const found = Bokeh.documents.filter((d) => d.get_model_by_name("pixels-recorded"));
      if (found.length) return found[0];
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  };
  const decoded = async (address) => {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const colours = context.getImageData(0, 0, image.width, image.height).data;
    const levels = Uint8Array.from({ length: image.width * image.height }, (_, i) => colours[4 * i]);
    return { levels, shape: [image.height, image.width] };
  };
  const page = await models();
  const { ndarray } = Bokeh.require("core/util/ndarray");
  for (const [name, address] of Object.entries(stemkit_pictures)) {
    const { levels, shape } = await decoded(address);
    stemkit_pixels[name] = levels;
    const source = page.get_model_by_name(`pixels-${name}`);
    source.data = { image: [ndarray(levels.slice().buffer, { dtype: "uint8", shape })] };
  }
  const divider = page.get_model_by_name("divider");
  if (divider) divider.value = 50;

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const recolour = () => {
    const text = dark.matches ? "#e6e8eb" : "#1b1f24", line = dark.matches ? "#a3abb5" : "#57606a";
    for (const model of page._all_models.values()) {
      if ("axis_label_text_color" in model) {
        model.setv({ axis_label_text_color: text, major_label_text_color: text, axis_line_color: line,
          major_tick_line_color: line, minor_tick_line_color: line });
      } else if ("label_text_color" in model && "click_policy" in model) {
        model.setv({ label_text_color: text, title_text_color: text, background_fill_alpha: 0, border_line_color: null });
      } else if ("text_color" in model && model.type === "Title") {
        model.text_color = text;
      } else if ("grid_line_color" in model) {
        model.setv({ grid_line_color: line, grid_line_alpha: 0.25 });
      }
    }
  };
  recolour();
  dark.addEventListener("change", recolour);
  document.documentElement.dataset.ready = "true";
})();
