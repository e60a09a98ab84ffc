(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const { MOST_WAYS, walk, waysTo, ownerOf, regionsOf, links, declared } = reading(data);
  const MOST_ASKED = 64;

  const make = (tag, says = "", attributes = {}) => {
    const made = document.createElement(tag);
    made.textContent = says;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };

  /* --- answers ------------------------------------------------------------------------------------------------ */
  const answer = by("answer"), said = by("said");

  const value = (bits, word) => {
    const [high, low] = bits.includes(":") ? bits.split(":") : [bits, bits];
    return (word >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n);
  };

  const fields = (step) => {
    const details = make("details"), list = make("ul");
    details.append(make("summary", "Fields"), list);
    for (const [bits, name, meaning, reserved, atZero] of step.shape.fields) {
      const its = value(bits, step.word);
      if (its === 0n && !atZero) continue;
      list.append(make("li", `${name} [${bits}] = ${hex(its)}: ${meaning}${reserved ? " (reserved)" : ""}`));
    }
    return details;
  };

  const stepTable = (steps) => {
    const scroll = make("div", "", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Steps of the walk" });
    // Its roles are said, since in a narrow window its rows are laid out as blocks.
    const table = make("table", "", { role: "table" }), head = make("tr", "", { role: "row" }), body = make("tbody", "", { role: "rowgroup" });
    const names = ["level", "table at HPA", "entry", "holds", "which is", "allows"];
    for (const name of names) head.append(make("th", name, { scope: "col", role: "columnheader" }));
    const cell = (nth, says, more = {}) => make("td", says, { role: "cell", "data-name": names[nth], ...more });
    for (const step of steps) {
      const row = make("tr", "", { role: "row", "data-slot": hex(step.slot), "data-entry": hex(step.word) });
      const means = cell(4, step.shape.meaning + (step.shape.address ? hex(step.output) : ""));
      means.append(fields(step));
      row.append(
        make("th", step.level, { scope: "row", role: "rowheader" }), cell(1, hex(step.table), { class: "address" }),
        cell(2, step.index), cell(3, "0x" + step.word.toString(16).padStart(16, "0"), { class: "address" }),
        means, cell(5, step.shape.allows ?? ""),
      );
      body.append(row);
    }
    const heads = make("thead", "", { role: "rowgroup" });
    heads.append(head);
    table.append(make("caption", "Steps of the walk"), heads, body);
    scroll.append(table);
    return scroll;
  };

  /* What there is to say of a GPA, in an element; the first line sums it up. */
  const aboutGpa = (vm, gpa) => {
    const found = vm.tables ? walk(vm.tables, gpa) : { steps: [], ...declared(vm, gpa) };
    const owner = vm.tables && found.hpa !== null ? ownerOf(found.hpa) : null;
    const [first, ...rest] = found.lines;
    const lines = vm.tables ? [first, ...(owner ? [owner] : []), ...rest, ...regionsOf(vm, gpa)] : [...regionsOf(vm, gpa), ...found.lines];
    return { ...found, lines, gpa };
  };

  const gpaArticle = (place, found, heading = "h3") => {
    const vm = data.vms[place];
    const article = make("article", "", { "data-vm": place, "data-gpa": hex(found.gpa) });
    if (found.hpa !== null) article.setAttribute("data-hpa", hex(found.hpa));
    if (heading) article.append(make(heading, `${vm.title}, GPA ${hex(found.gpa)}`));
    if (vm.tables) article.append(make("p", `${vm.tables.format}, root at HPA ${hex(number(vm.tables.root))}`, { class: "quiet" }));
    if (found.steps.length) article.append(stepTable(found.steps));
    for (const line of found.lines) article.append(make("p", line));
    return article;
  };

  const hpaArticle = (hpa) => {
    const article = make("article", "", { "data-hpa": hex(hpa) });
    article.append(make("h3", `HPA ${hex(hpa)}`));
    const owner = ownerOf(hpa), own = data.host.find((party) => has(party.span, hpa));
    const lines = [];
    if (owner) lines.push(owner);
    if (own) lines.push(`Host: ${own.name} (${data.kinds[own.kind]}).`);
    const ways = data.vms.flatMap((vm, place) => {
      const gpas = vm.tables ? waysTo(vm.tables, hpa) : links(vm)
        .filter(([, link]) => link.hpa && !link.scattered && has(link.hpa, hpa))
        .map(([, link]) => number(link.gpa[0]) + hpa - number(link.hpa[0]));
      return gpas.map((gpa) => [place, gpa]);
    });
    const many = ways.length > MOST_WAYS ? `More than ${MOST_WAYS} GPAs lead` : ways.length === 1 ? "1 GPA leads" : `${ways.length || "No"} GPAs lead`;
    lines.unshift(`${many} to HPA ${hex(hpa)}.`);
    if (data.vms.some((vm) => vm.tables?.levels.some((level) => level.until !== null) && !vm.tables.rows)) {
      lines.push("Of tables that this page has only in part there may be more.");
    }
    if (data.vms.some((vm) => !vm.tables && links(vm).some(([, link]) => !link.hpa))) lines.push(data.unchosen);
    for (const line of lines) article.append(make("p", line));
    for (const [nth, [place, gpa]] of ways.slice(0, MOST_WAYS).entries()) {
      const details = make("details"), found = aboutGpa(data.vms[place], gpa);
      details.open = nth === 0;
      details.append(make("summary", `${data.vms[place].title}, GPA ${hex(gpa)}`), gpaArticle(place, found, null));
      article.append(details);
    }
    return { article, lines, ways };
  };

  const addresses = (text) => {
    const words = text.split(/[\s,;]+/).filter(Boolean);
    const wrong = words.find((word) => !/^(0x[0-9a-f][0-9a-f_]*|[0-9][0-9_]*)$/i.test(word));
    if (wrong !== undefined) return { problem: `"${wrong}" is no address: write 0x80000000 or 2147483648.` };
    if (!words.length) return { problem: "Write an address: 0x80000000 or 2147483648." };
    if (words.length > MOST_ASKED) return { problem: `${words.length} addresses are more than the ${MOST_ASKED} that are answered at once.` };
    const found = words.map((word) => BigInt(word.replaceAll("_", "")));
    const wide = found.find((address) => address >> 64n);
    return wide === undefined ? { found } : { problem: `${hex(wide)} has more than 64 bits.` };
  };

  const ask = (space, text) => {
    const { found, problem } = addresses(text);
    answer.replaceChildren();
    answer.hidden = Boolean(problem);
    said.className = problem ? "error" : "";
    unpin();
    if (problem) {
      said.textContent = problem;
      return;
    }
    let first = "";
    for (const address of found) {
      if (space === "host") {
        const { article, lines, ways } = hpaArticle(address);
        answer.append(article);
        if (!first) pin(ways.length ? ways : [], address);
        first ||= lines.join(" ");
      } else {
        const its = aboutGpa(data.vms[space], address);
        answer.append(gpaArticle(space, its));
        if (!first) pin([[Number(space), address]], its.hpa);
        first ||= its.lines[0];
      }
    }
    said.textContent = found.length > 1 ? `${found.length} addresses are answered below.` : first;
  };

  /* --- the picture: size, what is shown, where an address is ----------------------------------------------------- */
  const picture = by("picture"), svg = picture.querySelector("svg");
  const width = Number(svg.getAttribute("width")), height = Number(svg.getAttribute("height"));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let scale = 1;

  const resize = (wanted, x = picture.clientWidth / 2, y = picture.clientHeight / 2) => {
    const before = scale;
    scale = Math.min(8, Math.max(0.1, wanted));
    const [left, top] = [(picture.scrollLeft + x) / before, (picture.scrollTop + y) / before];
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
    picture.scrollTo({ left: left * scale - x, top: top * scale - y, behavior: "instant" });
    by("zoom").textContent = `${Math.round(scale * 100)} %`;
  };
  const fit = () => picture.clientWidth / width;
  const zooms = { in: () => resize(scale * 1.25), out: () => resize(scale / 1.25), fit: () => resize(fit()), one: () => resize(1) };

  by("view").addEventListener("click", (event) => zooms[event.target.dataset?.zoom]?.());
  picture.addEventListener("keydown", (event) => {
    const key = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "one" }[event.key];
    if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    zooms[key]();
  });
  picture.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // without it the wheel moves the picture, as it moves everything
    event.preventDefault();
    const edge = picture.getBoundingClientRect();
    resize(scale * Math.exp(-event.deltaY / 400), event.clientX - edge.left, event.clientY - edge.top);
  }, { passive: false });
  picture.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0) return;
    const from = [event.clientX + picture.scrollLeft, event.clientY + picture.scrollTop];
    picture.classList.add("drag");
    const move = (moved) => picture.scrollTo({ left: from[0] - moved.clientX, top: from[1] - moved.clientY, behavior: "instant" });
    const stop = () => {
      picture.classList.remove("drag");
      removeEventListener("pointermove", move);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", stop, { once: true });
    addEventListener("pointercancel", stop, { once: true });
  });

  const boxes = [...svg.querySelectorAll("g[data-space]")].map((group) => {
    const rect = group.querySelector("rect"), of = (name) => Number(rect.getAttribute(name));
    const { space, start, end, kind } = group.dataset;
    const span = start === undefined ? null : [BigInt(start), BigInt(end)];
    return { group, space, kind, span, x: of("x"), y: of("y"), width: of("width"), height: of("height"), labels: [], who: [] };
  });
  /* What stands in a box is its label; what stands beside the boxes of a VM, as its title and its gaps, is the VM's. */
  const beside = data.vms.map((_, place) => {
    const mine = boxes.filter((box) => box.space === String(place));
    const last = Math.max(...mine.map((box) => box.y + box.height));
    return { x: mine[0]?.x, top: Math.min(...mine.map((box) => box.y)) - 24, bottom: last, width: mine[0]?.width, elements: [] };
  });
  const under = (one, top, bottom, x, y) => one.x - 1 <= x && x <= one.x + one.width + 1 && top <= y && y <= bottom;
  for (const element of svg.querySelectorAll("text[x], polyline, line")) {
    if (element.closest("[data-space]")) continue;
    const points = element.getAttribute("points")?.split(" ")[0].split(",");
    const [x, y] = (points ?? ["x", "y"].map((name) => element.getAttribute(name) ?? element.getAttribute(name + "1"))).map(Number);
    const box = element.tagName === "text" && boxes.find((one) => under(one, one.y, one.y + one.height, x, y));
    if (box) box.labels.push(element);
    else beside.find((one) => under(one, one.top, one.bottom, x, y))?.elements.push(element);
  }
  const bands = [...svg.querySelectorAll("path[data-vm]")];
  const marks = [...svg.querySelectorAll("[data-of]")];

  /* Who has a box: pairs of a VM and a kind; null is the host itself. */
  const meets = (box, [start, end]) => number(start) < box.span[1] && box.span[0] < number(end);
  for (const box of boxes) {
    if (!box.span) continue;
    if (box.space !== "host") {
      const mine = data.vms[box.space].parties.filter((party) => meets(box, party.span));
      box.who = mine.map((party) => [Number(box.space), party.kind]);
      continue;
    }
    box.who = data.host.filter((party) => meets(box, party.span)).map((party) => [null, party.kind]);
    for (const [place, vm] of data.vms.entries()) {
      for (const [party, link] of links(vm)) {
        if (link.hpa && meets(box, link.hpa)) box.who.push([place, party.kind]);
      }
    }
  }

  const filter = by("filter");
  const chosen = (name) => new Set([...filter.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value));
  const show = () => {
    const vms = chosen("vm"), kinds = chosen("kind");
    const shown = (vm, kind) => (vm === null || vms.has(String(vm))) && kinds.has(kind);
    for (const box of boxes) {
      const away = box.who.length ? !box.who.some(([vm, kind]) => shown(vm, kind)) : !kinds.has(box.kind);
      for (const element of [box.group, ...box.labels]) element.classList.toggle("away", away);
    }
    for (const [place, { elements }] of beside.entries()) {
      for (const element of elements) element.classList.toggle("away", !vms.has(String(place)));
    }
    for (const band of bands) band.classList.toggle("away", !shown(band.dataset.vm, band.dataset.kind));
    for (const mark of marks) mark.classList.toggle("away", !vms.has(mark.dataset.of));
    for (const row of document.querySelectorAll("tr[data-kind]")) row.hidden = !shown(row.dataset.vm ?? null, row.dataset.kind);
  };

  const unpin = () => svg.querySelectorAll(".pin").forEach((element) => element.remove());
  const draw = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, its] of Object.entries(attributes)) made.setAttribute(name, its);
    svg.append(made);
  };
  const spot = (space, address) => {
    const box = boxes.find((one) => one.space === String(space) && one.span && one.span[0] <= address && address < one.span[1]);
    if (!box) return null;
    const share = Number(((address - box.span[0]) * 4096n) / (box.span[1] - box.span[0])) / 4096;
    return { box, y: box.y + 1 + share * (box.height - 2) };
  };
  const pin = (seats, hpa) => {
    const host = hpa === null ? null : spot("host", hpa);
    const spots = seats.map(([place, gpa]) => spot(place, gpa)).filter(Boolean);
    for (const { box, y } of [...spots, ...(host ? [host] : [])]) {
      draw("path", { class: "pin", d: `M${box.x} ${y}h${box.width}` });
      draw("circle", { class: "pin end", cx: box.x, cy: y, r: 5 });
      draw("circle", { class: "pin end", cx: box.x + box.width, cy: y, r: 5 });
    }
    for (const { box, y } of host ? spots : []) {
      const left = box.x < host.box.x;
      const from = left ? box.x + box.width : box.x, to = left ? host.box.x : host.box.x + host.box.width;
      draw("path", { class: "pin", d: `M${from} ${y}L${to} ${host.y}` });
    }
    const seen = spots[0] ?? host;
    if (!seen) return;
    const left = (seen.box.x + seen.box.width / 2) * scale - picture.clientWidth / 2;
    picture.scrollTo({ left, top: seen.y * scale - picture.clientHeight / 2, behavior: still.matches ? "instant" : "smooth" });
  };

  /* --- questions --------------------------------------------------------------------------------------------------- */
  const form = by("ask");
  const go = (space, text) => {
    const wanted = "#" + new URLSearchParams({ space, address: text });
    if (location.hash === wanted) asked();
    else location.hash = wanted;
  };
  const asked = () => {
    const wanted = new URLSearchParams(location.hash.slice(1)), space = wanted.get("space"), text = wanted.get("address");
    if (text === null || ![...form.elements.space.options].some((option) => option.value === space)) return;
    form.elements.space.value = space;
    form.elements.address.value = text;
    ask(space, text);
  };
  for (const place of document.querySelectorAll("[data-ask]")) {
    const button = make("button", place.textContent, { type: "button", class: "ask" });
    const { space, ask: address } = place.dataset;
    const whose = space === "host" ? "HPA" : `GPA of ${data.vms[space].title}`;
    button.setAttribute("aria-label", `Look up ${whose} ${address}`);
    button.addEventListener("click", () => {
      go(space, address);
      form.scrollIntoView({ behavior: still.matches ? "instant" : "smooth" });
    });
    place.replaceChildren(button);
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(form.elements.space.value, form.elements.address.value);
  });
  filter.addEventListener("input", show);
  filter.addEventListener("reset", () => setTimeout(show));
  filter.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", asked);
  for (const id of ["ask", "filter", "view"]) by(id).hidden = false;
  resize(Math.min(1, Math.max(0.8, fit()))); // smaller, its text could not be read
  show(); // browsers keep what was chosen before the page was loaded again
  asked();
})();
