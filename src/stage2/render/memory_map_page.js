"use strict";
(() => {
  const ROWS = 200;
  const byId = (id) => document.getElementById(id);
  const { columns, kinds, rows } = JSON.parse(byId("data").textContent);
  const [ask, filter, body, answer] = ["ask", "filter", "rows", "answer"].map(byId);
  const outputs = columns.length;
  const number = (hex) => (hex === null ? null : BigInt(`0x${hex}`));
  const ranges = rows.map((row) => ({
    addresses: row.slice(0, outputs).map(number), size: number(row[outputs]), kind: kinds[row[outputs + 1]],
    device: row[outputs + 2] === 1,
  }));
  const hex = (value) => `0x${value.toString(16)}`;
  const span = (range) => `${hex(range.addresses[0])}-${hex(range.addresses[0] + range.size - 1n)}`;
  const UNITS = [[1n << 40n, "TiB"], [1n << 30n, "GiB"], [1n << 20n, "MiB"], [1n << 10n, "KiB"]];
  const sized = (size) => {
    const unit = UNITS.find(([bytes]) => size >= bytes && size % bytes === 0n);
    return unit ? `${size / unit[0]} ${unit[1]}` : `${size} B`;
  };
  const keys = [
    ...columns.map((_, place) => (range) => range.addresses[place]),
    (range) => range.size, (range) => range.kind.allows, (range) => range.kind.leaf, (range) => range.kind.type,
  ];
  let shown = ranges;
  let page = 0;
  let sorted = { column: 0, down: false };

  const cell = (tag, text, kind) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const draw = () => {
    const pages = Math.max(1, Math.ceil(shown.length / ROWS));
    page = Math.min(Math.max(page, 0), pages - 1);
    body.replaceChildren(...shown.slice(page * ROWS, (page + 1) * ROWS).map((range, place) => {
      const row = document.createElement("tr");
      const head = cell("th", span(range), "address");
      head.scope = "row";
      row.append(head, ...range.addresses.slice(1).map((at) => cell("td", at === null ? "nothing" : hex(at), "address")),
        cell("td", sized(range.size), "number"), cell("td", range.kind.allows, "address"),
        cell("td", range.kind.sized, "number"), cell("td", range.kind.type));
      row.tabIndex = place ? -1 : 0;
      return row;
    }));
    byId("page").textContent = `page ${page + 1} of ${pages}`;
    byId("first").disabled = byId("previous").disabled = page === 0;
    byId("next").disabled = byId("last").disabled = page === pages - 1;
    byId("shown").textContent = `${shown.length} of ${ranges.length} ranges, page ${page + 1} of ${pages}`;
  };
  const order = () => {
    const key = keys[sorted.column];
    const sign = sorted.down ? -1 : 1;
    const less = (one, other) => {
      const [a, b] = [key(one), key(other)];
      // What leads nowhere comes last, either way.
      if (a === null || b === null) return (a === null) - (b === null);
      return a < b ? -sign : a > b ? sign : 0;
    };
    shown = [...shown].sort(less);
  };
  const choose = () => {
    const { wx, user, device, text } = filter.elements;
    const sought = text.value.trim().toLowerCase();
    shown = ranges.filter(({ addresses, size, kind, device: its }) => (!wx.checked || kind.wx) && (!user.checked || kind.user)
      && (!device.checked || its)
      && (!sought || `${addresses.map((at) => (at === null ? "nothing" : hex(at))).join(" ")} ${hex(addresses[0] + size - 1n)}`.includes(sought)));
    page = 0;
    order();
    draw();
  };

  const lookUp = () => {
    const given = ask.elements.address.value.trim().replaceAll("_", "");
    answer.hidden = !given;
    if (!given) return;
    if (!/^(0x[0-9a-f]{1,16}|[0-9]{1,20})$/i.test(given)) {
      answer.textContent = "Write one address: hexadecimal with 0x, or decimal.";
      return;
    }
    const address = BigInt(given);
    const found = ranges.find(({ addresses, size }) => address >= addresses[0] && address - addresses[0] < size);
    const told = `${columns[0]} ${hex(address)}`;
    if (!found) {
      answer.textContent = `${told}: no range of this page has it.`;
      return;
    }
    const ends = found.addresses.slice(1).map((at, place) =>
      `${columns[place + 1]} ${at === null ? "nothing" : hex(at + address - found.addresses[0])}`);
    answer.textContent = `${[told, ...ends].join(" → ")}, allows ${found.kind.allows}, leaf ${found.kind.sized}`
      + `${found.kind.type ? `, ${found.kind.type}` : ""}, in ${span(found)}`;
    location.replace(`#${hex(address)}`);
  };

  const heads = [...document.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", column ? "none" : "ascending");
    button.addEventListener("click", () => {
      sorted = { column, down: sorted.column === column && !sorted.down };
      heads.forEach((one, place) =>
        one.setAttribute("aria-sort", place !== column ? "none" : sorted.down ? "descending" : "ascending"));
      page = 0;
      order();
      draw();
    });
  });
  const to = (place) => () => { page = place(); draw(); };
  byId("first").addEventListener("click", to(() => 0));
  byId("previous").addEventListener("click", to(() => page - 1));
  byId("next").addEventListener("click", to(() => page + 1));
  byId("last").addEventListener("click", to(() => Infinity));
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling,
      Home: body.firstElementChild, End: body.lastElementChild }[event.key];
    if (!next || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    row.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  filter.addEventListener("input", choose);
  filter.addEventListener("reset", () => setTimeout(choose));
  filter.addEventListener("submit", (event) => event.preventDefault());
  ask.addEventListener("submit", (event) => { event.preventDefault(); lookUp(); });
  const linked = () => {
    if (!/^#(0x[0-9a-f]+|[0-9]+)$/i.test(location.hash)) return;
    ask.elements.address.value = location.hash.slice(1);
    lookUp();
  };
  addEventListener("hashchange", linked);
  for (const id of ["ask", "filter", "pages"]) byId(id).hidden = false;
  choose();
  linked();
})();
