document.addEventListener("DOMContentLoaded", () => {
  const drawings = [...document.querySelectorAll("figure.plot > .drawing")];
  const narrow = matchMedia("(max-width: 40rem)");
  for (const box of drawings) {
    const figure = JSON.parse(box.nextElementSibling.textContent);
    if (narrow.matches) Object.assign(figure.layout, { margin: { t: 30, b: 50, l: 45, r: 8 }, font: { size: 10 } });
    Plotly.newPlot(box, figure.data, figure.layout, { displayModeBar: false, responsive: true });
  }
  const fit = (width) => drawings.forEach((box) => Plotly.relayout(box, width ? { width } : { autosize: true, width: null }));
  addEventListener("beforeprint", () => fit(680));
  addEventListener("afterprint", () => fit(null));
});
