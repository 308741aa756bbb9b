// Draws each figure when it is scrolled into view, and again when the page changes between light and dark.
const plots = (() => {
  const figures = JSON.parse(document.getElementById("data-figures").textContent);
  const hover = matchMedia("(hover: hover)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // On a dark page: lighter colours, which the colour-blind can distinguish as well.
  const LIGHTER = {
    "#0072B2": "#4FA9E6", "#D55E00": "#F5864A", "#009E73": "#35C79B", "#CC79A7": "#E2A3C7",
    "#E69F00": "#F3BC55", "#56B4E9": "#A9DCF8", "#000000": "#F0F2F4",
    "#882255": "#D46A9F", "#332288": "#9486E8", "#999933": "#CBCB6A", "#AA4499": "#DD86CF", "#661100": "#C9785C",
    "#00326E": "#3F7FD1",
  };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const drawn = new Set();

  function recolour(item) {
    if (typeof item === "string" && /^#[0-9A-F]{6}([0-9A-F]{2})?$/i.test(item)) {
      const lighter = LIGHTER[item.slice(0, 7)];
      return lighter ? lighter + item.slice(7) : item;
    }
    if (Array.isArray(item)) return item.map(recolour);
    if (item && typeof item === "object") return Object.fromEntries(Object.entries(item).map(([k, v]) => [k, recolour(v)]));
    return item;
  }

  function themed(layout) {
    const line = css("--line"), grid = css("--grid"), ink = css("--ink"), soft = css("--soft");
    const axis = { gridcolor: grid, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: true,
      tickfont: { color: soft, size: 11.5 } };
    const titled = (given = {}) => {
      const text = typeof given.title === "string" ? given.title : given.title?.text;
      return { ...axis, ...given, title: { text, font: { size: 12, color: soft }, standoff: 10 } };
    };
    const axes = Object.fromEntries(["xaxis", "yaxis"].map((name) => [name, titled(layout[name])]));
    return {
      paper_bgcolor: css("--page"), plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 52, r: 14, t: 10, b: 44 },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      modebar: { bgcolor: css("--page"), color: soft, activecolor: ink },
      hoverlabel: { bgcolor: css("--raised"), bordercolor: line, font: { color: ink, size: 12.5 }, align: "left", namelength: -1 },
      ...layout, ...axes,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink },
      legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top", ...layout.legend, font: { size: 12, color: ink }, bgcolor: "rgba(0,0,0,0)" },
    };
  }

  function draw(place) {
    const figure = figures[place.id.replace(/^plot-/, "")];
    if (!figure || !place.offsetWidth) return;
    drawn.add(place);
    let traces = figure.data;
    if (dark.matches) traces = recolour(traces);
    const layout = themed(dark.matches ? recolour(figure.layout) : figure.layout);
    Plotly.react(place, traces, layout, { displaylogo: false, responsive: true, displayModeBar: hover.matches && "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] });
  }

  // Also called for a place in <details> once it is opened.
  const watcher = new IntersectionObserver(
    (entries) => entries.forEach((entry) => { if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target); }),
    { rootMargin: "200px" },
  );
  dark.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("DOMContentLoaded", () => document.querySelectorAll(".plot").forEach((place) => watcher.observe(place)));

  return {
    set(name, figure) {
      figures[name] = figure;
      const place = document.getElementById(`plot-${name}`);
      if (drawn.has(place)) draw(place);
    },
  };
})();
