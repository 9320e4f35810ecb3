// Captions side by side: rows are made as they are scrolled to.
for (const place of document.querySelectorAll(".captions")) showCaptions(place);

function showCaptions(place) {
  const data = JSON.parse(place.querySelector("script").textContent);
  const body = place.querySelector("tbody");
  const titles = place.querySelectorAll("th");
  const count = place.querySelector("output");
  const filters = place.querySelector(".filters");
  const own = (metric) => data.scores[metric]?.[0];
  const metrics = Object.keys(data.scores);
  const CHUNK = 40;
  let shown = [];
  let done = 0;

  const add = (label, control) => {
    const wrapper = document.createElement("label");
    wrapper.append(`${label} `, control);
    filters.append(wrapper);
    control.addEventListener("input", choose);
    return control;
  };
  const select = (label, options) => {
    const control = document.createElement("select");
    for (const [value, text] of options) control.add(new Option(text, value));
    return add(label, control);
  };
  const number = (label) => {
    const control = document.createElement("input");
    control.type = "number";
    control.step = "any";
    return add(label, control);
  };
  const input = document.createElement("input");
  input.type = "search";
  const words = add("Words", input);
  const groups = Object.entries(data.groups).map(([kind, values]) => {
    const found = [...new Set(values.flatMap((value) => value.split("\n")))].filter(Boolean).sort();
    return [values, select(kind, [["", "all"], ...found.map((value) => [value, value])])];
  });
  const metric = metrics.length ? select("Score", metrics.map((name) => [name, name])) : null;
  const order = metrics.length
    ? select("Show", [["tenth", "the worst tenth"], ["worst", "all, worst first"], ["best", "all, best first"]])
    : null;
  const low = metrics.length ? number("from") : null;
  const high = metrics.length ? number("to") : null;

  function choose() {
    const wanted = words.value.toLowerCase();
    const scores = metric ? own(metric.value) : null;
    const of = (row) => scores?.[row] ?? Infinity;
    shown = data.ids.map((_, row) => row);
    for (const [values, control] of groups)
      if (control.value) shown = shown.filter((row) => values[row].split("\n").includes(control.value));
    if (wanted)
      shown = shown.filter((row) =>
        [data.ids[row], data.references[row], ...data.texts.map((texts) => texts[row])].some((text) => text.toLowerCase().includes(wanted)));
    if (scores) {
      if (low.value) shown = shown.filter((row) => of(row) >= Number(low.value));
      if (high.value) shown = shown.filter((row) => of(row) <= Number(high.value));
      const sign = (order.value === "best") === data.lower_is_better.includes(metric.value) ? 1 : -1;
      const rank = (row) => sign * (scores[row] ?? sign * Infinity);
      shown.sort((a, b) => rank(a) - rank(b) || a - b);
      if (order.value === "tenth") shown = shown.slice(0, Math.ceil(shown.length / 10));
    }
    count.textContent = `${shown.length.toLocaleString("en")} of ${data.ids.length.toLocaleString("en")}`;
    body.replaceChildren();
    done = 0;
    addRows();
  }

  function addRows() {
    const rows = shown.slice(done, done + CHUNK);
    done += rows.length;
    body.append(...rows.map(buildRow));
  }

  function buildRow(row) {
    const line = document.createElement("tr");
    const name = line.insertCell();
    if (data.images[data.ids[row]]) {
      const image = new Image();
      image.src = data.images[data.ids[row]];
      image.alt = "";
      name.append(image);
    }
    name.append(quiet(data.ids[row]));
    for (const values of Object.values(data.groups)) if (values[row]) name.append(quiet(values[row].replaceAll("\n", ", ")));
    const references = data.references[row].split("\n");
    line.insertCell().append(...references.map((text) => element("p", text)));
    data.texts.forEach((texts, column) => {
      const cell = line.insertCell();
      cell.append(markWords(texts[row], references));
      const score = metric ? data.scores[metric.value][column][row] : null;
      if (score !== null) cell.append(quiet(`${metric.value} ${score.toFixed(3)}`));
    });
    for (const cell of line.cells) cell.dataset.column = titles[cell.cellIndex].textContent;
    return line;
  }

  choose();
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && addRows(), {
    root: place.querySelector(".scroll"), rootMargin: "600px",
  }).observe(place.querySelector(".end"));
}

function element(tag, text, kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  return made;
}

function quiet(text) {
  return element("span", text, "spread");
}

// Mark the words that are not part of the longest common subsequence with the nearest reference.
function markWords(text, references) {
  const words = text.split(/\s+/).filter(Boolean);
  const plain = (word) => word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
  let kept = new Set();
  for (const reference of references) {
    const found = findCommon(words.map(plain), reference.split(/\s+/).map(plain));
    if (found.size > kept.size) kept = found;
  }
  const paragraph = document.createElement("p");
  words.forEach((word, place) => paragraph.append(kept.has(place) ? word : element("mark", word), " "));
  if (!words.length) paragraph.append(quiet("(empty)"));
  return paragraph;
}

// The places in `words` of a longest common subsequence with `others`.
function findCommon(words, others) {
  const lengths = Array.from({ length: words.length + 1 }, () => new Uint16Array(others.length + 1));
  for (let i = words.length - 1; i >= 0; i--)
    for (let j = others.length - 1; j >= 0; j--)
      lengths[i][j] = words[i] && words[i] === others[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
  const kept = new Set();
  for (let i = 0, j = 0; i < words.length && j < others.length;)
    if (words[i] && words[i] === others[j]) { kept.add(i); i++; j++; }
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  return kept;
}
