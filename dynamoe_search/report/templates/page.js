"use strict";
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const palettes = JSON.parse(document.getElementById("palettes").textContent);
  const experts = JSON.parse(document.getElementById("experts-data").textContent);
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(hover: none)").matches;
  const drawn = new Set();

  // Theme: the system's until the reader chooses.
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const remember = (theme) => { try { localStorage.setItem("dynamoe-theme", theme); } catch { /* a private window */ } };
  try {
    const chosen = localStorage.getItem("dynamoe-theme");
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  } catch { /* a private window */ }

  function coloured(value, palette) {
    if (typeof value === "string") return value[0] === "@" ? palette[value.slice(1)] ?? value : value;
    if (Array.isArray(value)) return value.map((item) => coloured(item, palette));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, palette)]));
    }
    return value;
  }

  function axis(given) {
    return {
      gridcolor: css("--line"), linecolor: css("--line"), zerolinecolor: css("--line"), automargin: true,
      tickfont: { color: css("--quiet") }, ...given,
      title: given && given.title ? { standoff: 8, ...given.title } : undefined,
    };
  }

  function layout(plot, width) {
    const narrow = width < 560;
    const height = narrow && plot.height > 300 ? Math.max(300, Math.round(plot.height * 0.95)) : plot.height;
    const made = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--text"), size: narrow ? 12 : 13, family: "system-ui, sans-serif" },
      margin: { l: narrow ? 48 : 64, r: narrow ? 8 : 16, t: 12, b: 48 },
      legend: {
        orientation: "h", x: 0, y: -58 / Math.max(120, height - 110), yanchor: "top",
        ...(narrow ? { entrywidth: 0.48, entrywidthmode: "fraction" } : {}),
      },
      hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--text"), size: 13 }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--accent"), orientation: "h" },
      dragmode: touch ? false : "zoom",
      height,
      ...plot.layout,
      xaxis: axis(plot.layout.xaxis), yaxis: axis(plot.layout.yaxis),
    };
    return made;
  }

  const config = {
    responsive: false, displaylogo: false, displayModeBar: touch ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  function draw(name) {
    const place = document.getElementById("plot-" + name);
    const plot = plots[name];
    if (!place || !plot) return;
    const palette = { ...palettes[isDark() ? "dark" : "light"], ground: css("--ground") };
    const made = layout(plot, place.clientWidth);
    const toggle = document.querySelector(`[data-log="${name}"]`);
    if (toggle && toggle.getAttribute("aria-pressed") === "true") {
      made.xaxis = { ...made.xaxis, type: "log", dtick: "D2" };
    }
    place.style.height = made.height + "px";
    Plotly.react(place, coloured(plot.data, palette), { ...made, width: place.clientWidth }, config);
    drawn.add(name);
  }

  // Experts of the candidate that is chosen.
  function expertPlots(one) {
    const layers = one.load.map((_, place) => "layer " + place);
    const most = Math.max(...one.load.map((row) => row.length), 1);
    const few = most <= 10 && layers.length <= 12;
    const shares = one.load.map((row) => row.map((load) => (load === null ? "" : (100 * load).toFixed(0) + " %")));
    plots.load = {
      height: 140 + 40 * Math.min(12, Math.max(3, layers.length)),
      data: [{
        type: "heatmap", z: one.load, y: layers, x: Array.from({ length: most }, (_, place) => place),
        zmin: 0, zmax: 1, colorscale: one.scale, xgap: 2, ygap: 2, hoverongaps: false,
        text: few ? shares : undefined, texttemplate: few ? "%{text}" : undefined,
        hovertemplate: "%{y}, expert %{x}<br>used by %{z:.1%} of the tokens<extra></extra>",
        colorbar: { tickformat: ".0%", thickness: 10, outlinewidth: 0, tickfont: { color: css("--quiet") } },
      }],
      layout: {
        xaxis: { title: { text: "expert" }, showgrid: false, dtick: most > 16 ? undefined : 1, zeroline: false },
        yaxis: { autorange: "reversed", showgrid: false, zeroline: false },
      },
    };
    plots.k = {
      height: 140 + 40 * Math.min(12, Math.max(3, layers.length)),
      data: one.k.map((row, place) => ({
        type: "bar", name: layers[place], x: row.map((_, k) => k), y: row,
        marker: { color: "@series" + (place % 7) },
        hovertemplate: "%{y:.1%} of the tokens use %{x}<extra>" + layers[place] + ": mean K " + one.mean_k[place] + "</extra>",
      })),
      layout: {
        barmode: "group", xaxis: { title: { text: "experts per token, K" }, dtick: 1 },
        yaxis: { title: { text: "tokens" }, tickformat: ".0%", range: [0, 1.02] },
      },
    };
  }

  const picker = document.getElementById("candidate");
  function pick() {
    if (!picker || !experts[picker.value]) return;
    expertPlots(experts[picker.value]);
    draw("load");
    draw("k");
  }

  function drawAll() {
    Object.keys(plots).filter((name) => name !== "load" && name !== "k").forEach(draw);
    pick();
    root.dataset.drawn = String(drawn.size);
  }

  // Tables: a click or Enter on a heading sorts; empty cells stay last.
  function sort(table, column, heading) {
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const rows = [...body.rows].map((row) => ({ row, text: key(row) }));
    const isNumber = rows.every(({ text }) => text === "" || !Number.isNaN(Number(text)));
    rows.sort((one, other) => {
      if (one.text === "" || other.text === "") return (one.text === "") - (other.text === "");
      const order = isNumber ? Number(one.text) - Number(other.text) : one.text.localeCompare(other.text);
      return rising ? order : -order;
    });
    body.append(...rows.map(({ row }) => row));
  }

  document.querySelectorAll("table.sortable").forEach((table) => {
    table.querySelectorAll("thead th").forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => sort(table, column, heading));
    });
  });
  document.querySelectorAll("[data-log]").forEach((button) => {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      draw(button.dataset.log);
    });
  });
  const themeButton = document.getElementById("theme");
  const nameTheme = () => { themeButton.textContent = isDark() ? "Light" : "Dark"; };
  themeButton.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    nameTheme();
    drawAll();
  });
  system.addEventListener("change", () => { nameTheme(); drawAll(); });
  if (picker) picker.addEventListener("change", pick);
  let width = root.clientWidth;
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (root.clientWidth === width) return; // a phone's address bar came or went
      width = root.clientWidth;
      drawAll();
    }, 150);
  });
  nameTheme();
  drawAll();
})();
