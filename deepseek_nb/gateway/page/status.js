"use strict";
// The status page: fetches the figures every two seconds and writes them as text, never as markup.

const EVERY_MS = 2000;
const byId = (id) => document.getElementById(id);
let token = sessionStorage.getItem("gateway-token") || "";

const share = (value) => (value === null ? "–" : `${+(100 * value).toPrecision(3)} %`);
const usd = (value) => (value === null ? "–" : value === 0 ? "$0" : `$${value < 1 ? +value.toPrecision(2) : value.toFixed(2)}`);

function time(ms) {
  if (ms === null) return "–";
  return ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;
}

function ago(s) {
  if (s < 90) return `${s} s`;
  return s < 5400 ? `${Math.round(s / 60)} min` : s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${Math.round(s / 86400)} days`;
}

function cell(text, kind = "") {
  const made = document.createElement("td");
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function rows(body, list, none, columns) {
  const made = list.map((one) => {
    const row = document.createElement("tr");
    row.append(...columns.map((column) => column(one)));
    return row;
  });
  if (!made.length) {
    const row = document.createElement("tr");
    const empty = cell(none, "none");
    empty.colSpan = columns.length;
    row.append(empty);
    made.push(row);
  }
  body.replaceChildren(...made);
}

function pill(state) {
  const made = document.createElement("td");
  const inner = document.createElement("span");
  inner.className = `pill ${state}`;
  inner.textContent = state;
  made.append(inner);
  return made;
}

function chart(series, bucketS) {
  const svg = byId("chart");
  const most = Math.max(1, ...series.map((parts) => parts[0] + parts[1] + parts[2]));
  const width = 10, height = 100;
  svg.setAttribute("viewBox", `0 0 ${series.length * width} ${height}`);
  const bars = [];
  series.forEach((parts, at) => {
    let top = height;
    ["ok", "refused", "failed"].forEach((kind, which) => {
      const tall = (parts[which] / most) * (height - 4);
      if (!tall) return;
      top -= tall;
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const told = { x: at * width + 1, y: top, width: width - 2, height: tall };
      Object.entries(told).forEach(([name, value]) => bar.setAttribute(name, value));
      bar.setAttribute("class", kind);
      bars.push(bar);
    });
  });
  svg.replaceChildren(...bars);
  byId("axis-most").textContent = `at most ${(most / bucketS).toFixed(most / bucketS < 10 ? 1 : 0)} per second`;
}

function budget(one) {
  const made = document.createElement("td");
  if (!one.limit_day_usd || one.spent_today_usd === null) {
    made.textContent = one.limit_day_usd === null ? "no limit" : usd(one.limit_day_usd);
    return made;
  }
  const meter = document.createElement("meter");
  meter.max = 1;
  meter.high = 0.8;
  meter.low = 0.8;
  meter.optimum = 0;
  meter.value = Math.min(1, one.spent_today_usd / one.limit_day_usd);
  made.append(meter, `${share(one.spent_today_usd / one.limit_day_usd)} of ${usd(one.limit_day_usd)}`);
  return made;
}

function show(told) {
  const worst = told.upstreams.some((one) => one.state === "failing" || one.state === "down");
  const state = byId("state");
  const alarmed = told.alarms.length > 0;
  state.textContent = worst ? "an upstream fails" : alarmed ? "alarm" : "serving";
  state.className = `pill ${worst ? "failing" : alarmed ? "shaky" : "up"}`;
  byId("up").textContent = `up for ${ago(told.up_s)}; figures of the last five minutes`;
  byId("rate").textContent = told.rate_per_s === null ? "–" : told.rate_per_s.toFixed(told.rate_per_s < 10 ? 1 : 0);
  byId("p50").textContent = time(told.p50_ms);
  byId("p99").textContent = time(told.p99_ms);
  byId("errors").textContent = share(told.error_rate);
  byId("hits").textContent = share(told.hit_rate);
  byId("flight").textContent = told.in_flight;
  byId("flight-told").textContent = told.waiting ? `under way, ${told.waiting} wait` : "under way";
  byId("errors").parentElement.classList.toggle("alarm", told.alarms.some((one) => one.name === "error_rate"));
  byId("p99").parentElement.classList.toggle("alarm", told.alarms.some((one) => one.name === "p99_ms"));
  byId("hits").parentElement.classList.toggle("alarm", told.alarms.some((one) => one.name === "cache_hit_rate"));
  const alarms = byId("alarms");
  alarms.hidden = !alarmed;
  alarms.replaceChildren(...told.alarms.map((one) => {
    const made = document.createElement("p");
    const what = document.createElement("b");
    what.textContent = one.text;
    made.append(what, one.todo);
    return made;
  }));
  chart(told.series, told.bucket_s);
  rows(byId("upstreams"), told.upstreams, "", [
    (one) => cell(one.name),
    (one) => pill(one.state),
    (one) => cell(one.answers, "n"),
    (one) => cell(one.refusals, "n"),
    (one) => cell(one.failures, "n"),
    (one) => cell(one.last_trouble ? `${one.last_trouble}, ${ago(one.last_trouble_s)} ago` : "none"),
  ]);
  rows(byId("lines"), told.lines, "no model was asked yet", [
    (one) => cell(one.model),
    (one) => cell(one.held + one.interactive, "n"),
    (one) => cell(one.limit, "n"),
    (one) => cell(one.waiting, "n"),
  ]);
  const table = byId("tenants");
  table.hidden = !told.tenants;
  if (!told.tenants) return;
  rows(table.tBodies[0], told.tenants, "", [
    (one) => cell(one.name),
    (one) => cell(`${one.in_flight} of ${one.concurrent}`, "n"),
    (one) => cell(`${one.priority[0]}, at most ${one.priority[1]}`, "n"),
    (one) => cell(one.requests_per_second, "n"),
    (one) => cell(usd(one.spent_today_usd), "n"),
    budget,
  ]);
}

async function refresh() {
  try {
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    let reply = await fetch("status.json", { headers, cache: "no-store" });
    const refused = reply.status === 401 || reply.status === 403;
    byId("told").hidden = reply.ok && Boolean(token);
    if (refused) {
      byId("told").textContent = token ? "That token is not taken." : "The figures show with a token of the scope metrics or admin.";
      if (token) {
        token = "";
        sessionStorage.removeItem("gateway-token");
        reply = await fetch("status.json", { cache: "no-store" });
      }
    }
    if (!reply.ok) throw new Error(String(reply.status));
    show(await reply.json());
  } catch {
    byId("state").textContent = "no answer";
    byId("state").className = "pill failing";
  }
  setTimeout(refresh, EVERY_MS);
}

byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  byId("token").value = "";
  if (token) sessionStorage.setItem("gateway-token", token);
});
refresh();
