"use strict";
const tip = document.getElementById("tip");

// What a point tells is its <title>, which browsers show by themselves where there is no script.
function show(point) {
  const [first, ...lines] = point.dataset.tip.split("\n");
  const name = document.createElement("b"), list = document.createElement("dl");
  name.textContent = first;
  for (const line of lines) {
    const cut = line.indexOf(": "), dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = line.slice(0, cut);
    dd.textContent = line.slice(cut + 2);
    list.append(dt, dd);
  }
  tip.replaceChildren(name, list);
  tip.hidden = false;
  const at = point.lastElementChild.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const right = at.right + 10 + own.width < innerWidth, below = at.bottom + own.height + 10 < innerHeight;
  const left = right ? at.right + 10 : at.left - own.width - 10;
  tip.style.left = `${Math.max(6, Math.min(left, innerWidth - own.width - 6))}px`;
  tip.style.top = `${Math.max(6, below ? at.bottom + 8 : at.top - own.height - 8)}px`;
}

function hide() {
  tip.hidden = true;
}

for (const chart of document.querySelectorAll("svg.chart")) {
  const points = [...chart.querySelectorAll(".point")];
  points.forEach((point, place) => {
    const title = point.querySelector("title");
    point.dataset.tip = title.textContent;
    title.remove();
    point.addEventListener("pointerenter", () => show(point));
    point.addEventListener("pointerleave", () => document.activeElement !== point && hide());
    point.addEventListener("focus", () => show(point));
    point.addEventListener("blur", hide);
    point.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const next = points[(place + step + points.length) % points.length];
      point.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
}
document.addEventListener("keydown", event => event.key === "Escape" && hide());
// Focus may scroll a point into view, and then its box goes with it.
document.addEventListener("scroll", () => {
  const point = document.activeElement;
  if (!tip.hidden) point.dataset.tip ? show(point) : hide();
}, { passive: true });

function content(row, column) {
  const cell = row.cells[column], text = cell.dataset.v ?? cell.textContent.trim();
  return text === "–" ? "" : text;
}

function number(text) {
  return text === "" ? NaN : Number(text.replaceAll(",", "").replace(/ (%|s|ms)$/, ""));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
      const rows = [...body.rows].map(row => [content(row, column), row]);
      const numeric = rows.every(([text]) => text === "" || !Number.isNaN(number(text)));
      const compare = numeric ? (a, b) => number(a) - number(b) : (a, b) => a.localeCompare(b);
      rows.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
      body.append(...rows.map(([, row]) => row));
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}

// In MLflow's frame a link to a section might leave the page, and one to MLflow leads nowhere.
if (["about:", "blob:", "data:"].includes(location.protocol)) {
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", event => {
      event.preventDefault();
      document.getElementById(link.hash.slice(1)).scrollIntoView();
    });
  }
  document.getElementById("mlflow")?.remove();
}
