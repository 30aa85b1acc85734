// Expands the scripts, which are compressed because the largest part of a page would be Bokeh, and runs them.
(async () => {
  if (!window.DecompressionStream) {
    document.getElementById("old-browser").hidden = false;
    return;
  }
  const packed = Uint8Array.from(atob(document.getElementById("scripts").textContent), (c) => c.charCodeAt(0));
  const text = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const script = document.createElement("script");
  script.textContent = await new Response(text).text();
  document.body.append(script);
})();
