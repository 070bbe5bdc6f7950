// The page of heliostat runs open: a list, a run or a sweep, a comparison, and the models. Texts become text nodes, never HTML.
"use strict";

const PAUSE = 2000; // ms between two requests at least
const SHARE = 20; // and how often as long as the server took for the last one
const chosen = new Set();
const main = document.getElementById("main");
const place = document.getElementById("place");
let timer = 0;
let turn = 0; // of the view that is shown; an answer for an earlier one is dropped

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

async function ask(path, query) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const each of [value].flat()) if (each !== "" && each !== false) parameters.append(name, each);
  const answer = await fetch(`/api/${path}?${parameters}`);
  if (answer.status === 403) throw Error("The command was started again: open the URL that it prints.");
  if (![200, 400].includes(answer.status)) throw Error(`heliostat runs open answers with status ${answer.status}; its terminal may say why.`);
  const document = await answer.json();
  place.textContent = document.storage;
  if (document.error) throw Error(document.error + (document.fix ? `. ${document.fix}` : ""));
  return document;
}

// Call `update` now and again and again, as long as the view is shown and the page is visible; `failed` gets what is wrong.
function follow(update, failed = say) {
  const mine = ++turn;
  const current = () => mine === turn;
  clearTimeout(timer);
  const next = async () => {
    let took = 0;
    let trouble = "";
    if (!document.hidden) {
      try {
        took = (await update(current)) || 0;
      } catch (error) {
        trouble = error instanceof TypeError ? "No contact with heliostat runs open; it may have ended." : error.message;
      }
    }
    if (!current()) return;
    if (trouble) failed(trouble);
    timer = setTimeout(next, Math.max(PAUSE, took * 1000 * SHARE));
  };
  return next();
}

function say(text) {
  const trouble = document.getElementById("trouble");
  if (trouble.textContent !== text) trouble.textContent = text;
}

const link = (name) => `#/run/${encodeURIComponent(name)}`;
const modelLink = (name) => `#/model/${encodeURIComponent(name)}`;
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const state = (text) => h("span", { class: `state ${/^[a-z]+$/.test(text) ? text : ""}` }, text);

function time(seconds) {
  const at = new Date(seconds * 1000).toISOString();
  return h("time", { datetime: at }, `${at.slice(0, 10)} ${at.slice(11, 19)} UTC`);
}

// Figures stay where they are while their data changes, so that a zoom and a brush stay.
function figures(place, found) {
  const panels = new Map([...place.children].map((panel) => [panel.dataset.key, panel]));
  const wanted = found.map((figure) => {
    const panel = panels.get(figure.title) || h("div",
      { "data-key": figure.title, class: `panel${figure.wide ? " wide" : ""}${figure.option.parallel ? " coordinates" : ""}` },
      h("h3", {}, figure.title), h("div", { class: "chart", role: "img", "aria-label": figure.title }));
    return [panel, figure];
  });
  const panel = wanted.map(([each]) => each);
  if (panel.length !== place.children.length || panel.some((each, n) => place.children[n] !== each)) place.replaceChildren(...panel);
  for (const [each, figure] of wanted) {
    const text = JSON.stringify(figure);
    if (each.drawnOf === text) continue;
    each.drawnOf = text;
    draw(each.querySelector(".chart"), figure);
  }
}

// The list.
const filters = { name: "", state: "", kind: "", sort: "created", reverse: "1", offset: 0 };

function list() {
  const field = (name, attributes = {}) => h("input", { ...attributes, value: filters[name], oninput: (event) => change(name, event.target.value) });
  const select = (name, options) => h("select", { onchange: (event) => change(name, event.target.value) }, options);
  const change = (name, value) => {
    filters[name] = value;
    if (name !== "offset") filters.offset = 0;
    follow(update);
  };
  const sorts = select("sort", []);
  const states = select("state", [h("option", { value: "" }, "any")]);
  const rows = h("tbody");
  const total = h("span", { class: "soft", role: "status" });
  const pages = h("span", { class: "links" });
  const compare = h("div", { class: "chosen" });
  const columns = [
    ["", ""], ["name", "name"], ["state", "state"], ["progress", "step"], ["result", ""], ["time", "time"], ["cost", "cost"],
    ["goodput", "goodput"], ["task", ""], ["created", "created"],
  ];
  const sortBy = (key) => {
    filters.reverse = filters.sort === key && filters.reverse ? "" : "1";
    change("sort", key);
  };
  const heads = columns.map(([name, key]) => h("th", { scope: "col" },
    key ? h("button", { onclick: () => sortBy(key), title: `sort by ${key}` }, name) : name));
  heads[0] = h("td");
  const options = (place, names, value, first = []) => {
    if (place.dataset.names === names.join("\n")) place.value = value;
    else {
      place.dataset.names = names.join("\n");
      place.replaceChildren(...first, ...names.map((name) => h("option", { value: name, selected: name === value }, name)));
    }
  };
  const shownChosen = () => (compare.hidden = !chosen.size) || compare.replaceChildren(...[
    h("button", { class: "main", disabled: chosen.size < 2,
      onclick: () => { location.hash = `#/compare/${[...chosen].map(encodeURIComponent).join("/")}`; } },
      chosen.size < 2 ? "choose another one to compare" : `compare ${chosen.size} runs`),
    h("button", { onclick: () => { chosen.clear(); follow(update); } }, "choose none"),
  ]);
  const choose = (name, wanted) => {
    if (wanted) chosen.add(name);
    else chosen.delete(name);
    shownChosen();
  };
  const row = (each) => h("tr", {},
    h("td", {}, each.kind !== "sweep" && h("input", { type: "checkbox", checked: chosen.has(each.name), "aria-label": `choose ${each.name}`,
      onchange: (event) => choose(each.name, event.target.checked) })),
    h("td", {}, h("a", { href: link(each.name) }, each.name), each.kind !== "run" ? h("span", { class: "soft" }, ` ${each.kind}`) : null,
      each.error ? h("div", { class: "error" }, each.error) : null),
    h("td", {}, state(each.state)), h("td", { class: "plain", "data-name": "step" }, each.progress),
    h("td", {}, each.result, each.others ? h("div", { class: "soft" }, each.others) : null),
    h("td", { class: "plain", "data-name": "time" }, each.time), h("td", { class: "plain", "data-name": "cost" }, each.cost), h("td", { "data-name": "goodput" }, each.goodput),
    h("td", { class: "plain soft" }, each.task), h("td", { class: "plain soft", "data-name": "created" }, each.created));
  let shown = "";
  async function update(current) {
    const found = await ask("runs", filters);
    if (!current()) return 0;
    say(found.trouble);
    options(states, found.states, filters.state, [h("option", { value: "" }, "any")]);
    options(sorts, [...found.keys, ...found.metrics.filter((name) => !found.keys.includes(name))], filters.sort);
    const text = JSON.stringify([found.rows, [...chosen]]);
    if (shown !== text && !rows.contains(document.activeElement?.closest?.("input"))) {
      rows.replaceChildren(...found.rows.map(row));
      shown = text;
    }
    const last = found.offset + found.rows.length;
    total.textContent = found.total ? `${found.offset + 1} to ${last} of ${found.total}` + (found.cost ? `, cost ${found.cost}` : "") : "no such runs";
    if (found.pending) total.textContent += `; still being read: ${found.pending}`;
    pages.replaceChildren(...[
      found.offset > 0 && h("button", { onclick: () => change("offset", Math.max(0, found.offset - 100)) }, "previous"),
      last < found.total && h("button", { onclick: () => change("offset", last) }, "next"),
    ].filter(Boolean));
    shownChosen();
    return found.pending ? 0 : found.took;
  }
  main.replaceChildren(
    h("h1", {}, "Runs and sweeps"),
    h("div", { class: "filters" },
      h("label", {}, "name", field("name", { type: "search", placeholder: "part, or digits*" })),
      h("label", {}, "state", states),
      h("label", {}, "kind", select("kind", [h("option", { value: "" }, "any"), ...["run", "sweep", "script"].map((name) => h("option", {}, name))])),
      h("label", {}, "sort by", sorts),
      h("label", {}, "order", h("select", { onchange: (event) => change("reverse", event.target.value) },
        h("option", { value: "1", selected: !!filters.reverse }, "largest first"), h("option", { value: "", selected: !filters.reverse }, "smallest first"))),
      total),
    h("div", { class: "panel" }, h("table", { class: "list" }, h("thead", {}, h("tr", {}, heads)), rows)), pages, compare);
  return follow(update);
}

// A run, a sweep or a script.
function one(name) {
  const reading = h("p", { class: "soft", role: "status" }, "reading");
  const head = h("div", {}, h("h1", {}, name), reading);
  const drawn = h("div", { class: "figures" });
  const below = h("div");
  const log = h("pre", { class: "log", tabindex: "0", "aria-label": "the output" });
  const logs = h("details", { ontoggle: () => logs.open && readLog() }, h("summary", {}, "what the workers print"), log);
  const logPanel = h("div", { class: "panel output", hidden: true }, logs);
  let mark = "";
  async function readLog() {
    const found = await ask("log", { name });
    const text = (found.cut ? "(earlier lines are left out)\n" : "") + found.lines.join("\n");
    if (log.textContent === text) return found.took;
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
    log.textContent = text;
    if (atEnd) log.scrollTop = log.scrollHeight;
    return found.took;
  }
  async function update(current) {
    const found = await ask("run", { name, mark });
    if (!current()) return 0;
    say(found.trouble);
    const log = logs.open ? await readLog() : 0;
    if (found.same || !current()) return found.took + log;
    mark = found.mark;
    head.replaceChildren(
      h("h1", {}, name),
      h("div", {}, state(found.state), " ", h("span", { class: "soft" }, found.kind, found.created ? [" · created ", time(found.created)] : "")),
      found.headline ? h("p", {}, found.headline) : "", found.message ? h("p", { class: "error" }, found.message) : "",
      h("div", { class: "tiles" }, found.tiles.map(([label, value]) => h("div", { class: "tile" }, h("span", { class: "soft" }, label), h("b", {}, value)))),
      h("div", { class: "links" }, found.report && h("a", { class: "button", href: `/report?name=${encodeURIComponent(name)}`, target: "_blank", rel: "noopener" }, "report"),
        found.kind !== "sweep" && h("button", { onclick: () => { chosen.add(name); location.hash = "#/"; } }, "compare with others"),
        found.models.map((each) => h("a", { class: "button", href: modelLink(each.model) },
          `model ${each.model}@${each.version}${each.aliases ? `, ${each.aliases}` : ""}`))),
      h("h2", {}, found.kind === "sweep" ? "What the trials show" : "Curves"));
    figures(drawn, found.figures);
    logPanel.hidden = !found.logs;
    const open = [...below.querySelectorAll("details")].map((each) => each.open);
    below.replaceChildren(...[
      found.trials && trials(name, found.trials),
      found.attempts && found.attempts.length && [h("h2", {}, "Attempts"), h("div", { class: "panel" }, attempts(found.attempts))],
      h("h2", {}, "Settings"),
      h("div", { class: "panel" }, h("table", { class: "cards facts" }, h("tbody", {}, found.facts.map(([label, value]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, String(value)))))),
        h("details", { open: open.at(-1) }, h("summary", {}, "the whole config"), h("pre", {}, found.config))),
    ].flat().filter(Boolean));
    localTimes(main);
    return found.took + log;
  }
  main.replaceChildren(head, drawn, below, logPanel);
  return follow(update, (trouble) => { if (reading.isConnected) reading.textContent = trouble; else say(trouble); });
}

function attempts(rows) {
  const names = ["started", "from step", "to step", "workers", "where", "starting", "training", "ended"];
  const cell = (row, name) => (name === "started" ? h("span", {}, time(row.started)) : String(row[name.replace(" ", "_")]));
  return h("table", { class: "cards" }, h("tbody", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name))),
    rows.map((row) => h("tr", {}, names.map((name) => h("td", { "data-name": name }, cell(row, name)))))));
}

function trials(sweep, found) {
  const all = found.rows.length < found.all ? ` the best ${found.rows.length} of ${found.all}` : " the best first";
  return [h("h2", {}, "Trials", h("span", { class: "soft" }, all)),
    h("div", { class: "panel", tabindex: "0", role: "region", "aria-label": "trials" }, h("table", { class: "trials" }, h("tbody", {},
      h("tr", {}, found.names.map((name) => h("th", { scope: "col" }, name))),
      found.rows.map((row) => h("tr", {}, row.cells.map((cell, n) => h("td", {},
        n === 0 && row.run ? h("a", { href: link(`${sweep}/trials/${row.run}`) }, cell) : cell)))))))];
}

// Runs side by side.
function compare(names) {
  const drawn = h("div", { class: "figures" });
  const results = h("tbody");
  const settings = h("tbody");
  const only = h("input", { type: "checkbox", checked: true, style: "min-height: 0", onchange: () => hide() });
  const hide = () => settings.querySelectorAll("tr.same").forEach((row) => { row.hidden = only.checked; });
  const table = (name, body) => h("div", { class: "panel", tabindex: "0", role: "region", "aria-label": name }, h("table", { class: "side" },
    h("thead", {}, h("tr", {}, h("td"), names.map((name) => h("th", { scope: "col" }, h("a", { href: link(name) }, name))))), body));
  const cells = ([key, values]) => [h("td", {}, key), values.map((value) => h("td", {}, value === "-" ? "" : value))].flat();
  async function update(current) {
    const found = await ask("compare", { run: names });
    if (!current()) return 0;
    say(found.trouble);
    figures(drawn, found.figures);
    results.replaceChildren(...found.results.map((row) => h("tr", {}, cells(row))));
    settings.replaceChildren(...found.settings.map(([key, differs, values]) => h("tr", { class: differs ? "differs" : "same" }, cells([key, values]))));
    if (!found.settings.some(([, differs]) => differs)) settings.append(h("tr", {}, h("td", {}, "all settings are the same")));
    hide();
    return found.took;
  }
  main.replaceChildren(
    h("h1", {}, `${names.length} runs side by side`),
    h("h2", {}, "Results"), table("results", results), h("h2", {}, "Settings"),
    h("label", {}, only, " only those that differ"), table("settings", settings), h("h2", {}, "Curves"), drawn);
  return follow(update);
}

// The models of the registry.
function cards(label, names, rows) {
  const cell = (value, n) => h("td", { "data-name": names[n], class: value && value.plain ? "plain" : undefined },
    value && value.plain !== undefined ? value.plain : value);
  return h("div", { class: "panel", tabindex: "0", role: "region", "aria-label": label }, h("table", { class: "cards models" }, h("tbody", {},
    h("tr", {}, names.map((name) => h("th", { scope: "col" }, name))), rows.map((row) => h("tr", {}, row.map(cell))))));
}

function models() {
  const rows = h("div");
  const total = h("p", { class: "soft", role: "status" }, "reading");
  const alias = (each) => each && h("span", {}, `version ${each.version}`, h("div", { class: "soft" }, each.metric));
  const row = (each) => [h("a", { href: modelLink(each.name) }, each.name),
    ...(each.problem ? [h("span", { class: "error" }, each.problem)]
      : [alias(each.champion), alias(each.candidate), String(each.versions), { plain: time(each.last.at) }, `${each.last.what} ${each.last.version}`, each.last.by])];
  async function update(current) {
    const found = await ask("models", {});
    if (!current()) return 0;
    say(found.trouble);
    total.textContent = found.models.length || found.pending ? counted(found.models.length, "model") : "no models in this storage; heliostat model add RUN adds that of a run";
    if (found.pending) total.textContent += `; still being read: ${found.pending}`;
    const text = JSON.stringify(found.models);
    if (rows.dataset.text !== text) {
      rows.dataset.text = text;
      rows.replaceChildren(...(found.models.length
        ? [cards("models", ["model", "champion", "candidate", "versions", "last change", "what", "by"], found.models.map(row))] : []));
      localTimes(rows);
    }
    return found.took;
  }
  main.replaceChildren(h("h1", {}, "Models"), total, rows);
  return follow(update);
}

function model(name) {
  const head = h("div", {}, h("h1", {}, name), h("p", { class: "soft", role: "status" }, "reading"));
  const below = h("div");
  const version = (each) => [`${each.version}${each.aliases ? ` ${each.aliases}` : ""}`,
    h("span", {}, each.metric, each.interval && h("div", { class: "soft" }, each.interval), each.others && h("div", { class: "soft" }, each.others)),
    each.link ? h("a", { href: link(each.link) }, each.run) : h("span", {}, each.run, h("div", { class: "soft" }, "not in this storage")),
    String(each.step), { plain: time(each.added) }, each.by, h("span", {}, each.data, " ", digits(each.fingerprint)),
    { plain: `${each.format}, ${(each.bytes / 1e6).toLocaleString("en", { maximumSignificantDigits: 3 })} MB` }, digits(each.checksum)];
  const digits = (text) => h("code", { title: text }, text.slice(0, 12));
  const entry = (each) => [{ plain: time(each.at) },
    each.passed === undefined ? each.what : `${each.what} ${each.passed ? "passed" : "not passed"}`,
    String(each.version), each.before === null ? "none" : String(each.before), each.by, each.why];
  const tile = (label, value, more) => h("div", { class: "tile" }, h("span", { class: "soft" }, label), h("b", {}, value), more && h("span", { class: "soft" }, more));
  const part = (shown, all) => (shown < all ? h("span", { class: "soft" }, ` the newest ${shown} of ${all}`) : null);
  let drawnOf = "";
  async function update(current) {
    const found = await ask("model", { name });
    if (!current()) return 0;
    say(found.trouble);
    const text = JSON.stringify({ ...found, took: 0 });
    if (text === drawnOf) return found.took;
    drawnOf = text;
    head.replaceChildren(h("h1", {}, name), h("div", { class: "tiles" },
      ["champion", "candidate"].map((alias) => tile(alias, found[alias] ? `version ${found[alias].version}` : "none", found[alias] && found[alias].metric)),
      tile("versions", String(found.versions))));
    below.replaceChildren(
      h("h2", {}, "Versions", part(found.rows.length, found.versions)),
      cards("versions", ["version", "metric", "run", "step", "added", "by", "data", "format", "checksum"], found.rows.map(version)),
      h("h2", {}, "Log", part(found.log.length, found.entries)),
      cards("log", ["when", "what", "version", "champion before", "by", "why"], found.log.map(entry)));
    localTimes(main);
    return found.took;
  }
  main.replaceChildren(head, below);
  return follow(update);
}

function route() {
  const [, view, ...names] = location.hash.split("/");
  const decoded = names.map(decodeURIComponent);
  scrollTo(0, 0);
  document.title = ["run", "model"].includes(view) ? `${decoded[0]} – Heliostat` : "Heliostat";
  for (const each of document.querySelectorAll("header nav a")) {
    if (/^#\/model/.test(each.hash) === /^models?$/.test(view)) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  if (view === "run") one(decoded[0]);
  else if (view === "model") model(decoded[0]);
  else if (view === "models") models();
  else if (view === "compare") compare(decoded);
  else list();
}
addEventListener("hashchange", route);
route();
