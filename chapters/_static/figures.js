// Draws the Plotly figures of a page in the colours of the theme, and again when it changes.
(() => {
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The changes to a drawn figure that make it fit the theme: text, grid lines, backgrounds.
  function themed(layout) {
    const text = colour("--pst-color-text-base");
    const line = colour("--pst-color-border");
    const surface = colour("--pst-color-surface");
    const change = {
      "font.color": text,
      "paper_bgcolor": "rgba(0,0,0,0)",
      "plot_bgcolor": "rgba(0,0,0,0)",
      "legend.bgcolor": "rgba(0,0,0,0)",
    };
    const axes = [];
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) axes.push(key);
      if (/^scene\d*$/.test(key)) axes.push(`${key}.xaxis`, `${key}.yaxis`, `${key}.zaxis`);
    }
    for (const axis of axes) {
      change[`${axis}.gridcolor`] = line;
      change[`${axis}.zerolinecolor`] = line;
      change[`${axis}.linecolor`] = line;
    }
    (layout.sliders || []).forEach((_, i) => {
      change[`sliders[${i}].bgcolor`] = line;
      change[`sliders[${i}].bordercolor`] = line;
    });
    (layout.updatemenus || []).forEach((_, i) => {
      change[`updatemenus[${i}].bgcolor`] = surface;
      change[`updatemenus[${i}].bordercolor`] = line;
    });
    return change;
  }

  const recolour = (box) => Plotly.relayout(box, themed(box._fullLayout));

  async function draw(box) {
    const figure = JSON.parse(box.querySelector("script").textContent);
    const config = { responsive: true, displaylogo: false, ...figure.config };
    const layout = { ...figure.layout, autosize: true };
    delete layout.width; // the page decides, so that a phone shows the whole figure
    await Plotly.newPlot(box, { data: figure.data, layout, config, frames: figure.frames || [] });
    await recolour(box);
    box.dataset.drawn = "true";
  }

  document.addEventListener("DOMContentLoaded", () => {
    const boxes = [...document.querySelectorAll(".plotly-figure")];
    if (boxes.length === 0) return;
    boxes.forEach(draw);
    new MutationObserver(() => boxes.forEach(recolour)).observe(document.documentElement, {
      attributeFilter: ["data-theme"],
    });
    // A figure inside a closed drop-down has no size until it opens.
    document.addEventListener(
      "toggle",
      (event) => event.target.querySelectorAll(".plotly-figure").forEach((box) => Plotly.Plots.resize(box)),
      true,
    );
  });
})();
