"use strict";
// Answers a pointer over a chart with the values at the nearest logged step. Reading needs none of this.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
  const show = (value) => (value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : number.format(value));

  const nearest = (points, x) => points.reduce((best, point) =>
    Math.abs(point[2] - x) < Math.abs(best[2] - x) ? point : best);

  const draw = (name, attributes) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };

  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const chart = charts[figure.dataset.chart];
    const svg = figure.querySelector("svg");
    const pointer = svg.querySelector(".pointer");
    const readout = figure.querySelector(".readout");
    const note = readout.textContent;
    if (!chart) continue;

    const answer = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const lead = nearest(chart.series[0].points, x);
      const found = chart.series.map((line) => [line.label, nearest(line.points, lead[2])]);
      pointer.replaceChildren(
        draw("path", { d: `M${lead[2]} 30V204` }),
        ...found.map(([, point]) => draw("circle", { cx: point[2], cy: point[3], r: 3.5 })));
      readout.textContent = `step ${lead[0]}: ` + found.map(([label, point]) =>
        `${label} ${show(point[1])}` + (point[0] === lead[0] ? "" : ` (step ${point[0]})`)).join(" · ");
    };
    svg.addEventListener("pointermove", answer);
    svg.addEventListener("pointerdown", answer);
    svg.addEventListener("pointerleave", () => {
      pointer.replaceChildren();
      readout.textContent = note;
    });
  }
})();
