"use strict";
const hex = (value) => "0x" + value.toString(16);
const number = (text) => BigInt("0x" + text);
const has = ([start, end], address) => number(start) <= address && address < number(end);

/* What a page's data say of addresses. Nothing here knows a table format: entries are found and counted, not decoded. */
const reading = (data) => {
  const MOST_WAYS = 64;

  /* The entry of a sorted list whose span has an address. */
  const inside = (spans, address, span = (one) => one) => {
    let low = 0, high = spans.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (number(span(spans[middle])[0]) <= address) low = middle + 1;
      else high = middle;
    }
    return low && address < number(span(spans[low - 1])[1]) ? spans[low - 1] : null;
  };

  /* The runs of a level, read when they are first asked for. */
  const runsOf = (level) => {
    level.read ??= level.runs === "" ? [] : level.runs.split(";").map((line) => {
      const [first, count, grows, word, output, shape, hpa] = line.split(" ").map(number);
      return { first, count, grows, word, output, shape: Number(shape), hpa };
    });
    return level.read;
  };

  const runAt = (level, place) => {
    const runs = runsOf(level);
    let low = 0, high = runs.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (runs[middle].first <= place) low = middle + 1;
      else high = middle;
    }
    const run = runs[low - 1];
    return run && place < run.first + run.count ? run : null;
  };

  /* What one entry of a run is: nothing but counting. */
  const entryOf = (level, run, place) => {
    const nth = place - run.first;
    const output = run.output + nth * number(level.steps[run.grows]);
    return {
      shape: data.shapes[run.shape],
      word: BigInt.asUintN(64, run.word + nth * number(level.words[run.grows])),
      output,
      hpa: run.hpa === undefined ? output : run.hpa + nth * (1n << BigInt(level.shift)),
    };
  };

  const told = (lines, gpa, hpa) =>
    lines.map((line) => line.replaceAll("{gpa}", hex(gpa)).replaceAll("{hpa}", hpa === null ? "" : hex(hpa)));

  /* The walk of a GPA: its steps, the HPA or null, and how it ended. */
  const walk = (tables, gpa) => {
    const steps = [];
    if (gpa >> BigInt(tables.bits)) return { steps, hpa: null, lines: told(tables.wide, gpa, null) };
    if (tables.always) return { steps, hpa: null, lines: told(tables.always, gpa, null) };
    let table = number(tables.root);
    for (const level of [...tables.levels].reverse()) {
      const shift = BigInt(level.shift), place = gpa >> shift;
      const run = runAt(level, place);
      if (!run) return leftOut(tables, level, steps, gpa);
      const entry = entryOf(level, run, place), { shape } = entry;
      if (shape.kind === "outside") return { steps, hpa: null, lines: told(shape.lines, gpa, null) };
      const index = place & ((1n << BigInt(level.index)) - 1n);
      const slot = table + index * BigInt(tables.entry);
      steps.push({ level: level.name, table, index, slot, word: entry.word, shape, output: entry.output });
      if (shape.kind === "leaf") {
        const hpa = entry.hpa + (gpa & ((1n << shift) - 1n));
        return { steps, hpa, lines: told(shape.lines, gpa, hpa) };
      }
      if (shape.kind !== "table") return { steps, hpa: null, lines: told(shape.lines, gpa, null) };
      table = entry.output;
    }
    return { steps, hpa: null, lines: [] };
  };

  /* What is known of an address whose entries this page does not have. */
  const leftOut = (tables, level, steps, gpa) => {
    const said = `This page does not have the entries of ${level.name} from GPA ${hex(number(level.until))} on.`;
    if (!tables.rows) return { steps, hpa: null, lines: [`GPA ${hex(gpa)}: ${said}`] };
    const row = inside(tables.rows, gpa, (one) => [one[0], (number(one[0]) + number(one[2])).toString(16)]);
    if (!row) return { steps, hpa: null, lines: [`GPA ${hex(gpa)}: nothing is mapped there.`, said] };
    const hpa = number(row[1]) + gpa - number(row[0]);
    return { steps, hpa, lines: [`GPA ${hex(gpa)} is HPA ${hex(hpa)} ${row[3]}, in leaves of ${row[4]}.`, said] };
  };

  /* Every GPA of a VM's tables that leads to an HPA, and whether there may be more. */
  const waysTo = (tables, hpa) => {
    const found = [];
    if (tables.always) return found;
    for (const level of tables.levels) {
      const size = 1n << BigInt(level.shift);
      for (const run of runsOf(level)) {
        if (data.shapes[run.shape].kind !== "leaf") continue;
        const moves = run.hpa !== undefined || run.grows !== 0n;
        const start = run.hpa ?? run.output;
        if (moves) {
          const nth = (hpa - start) / size;
          if (hpa >= start && nth < run.count) found.push((run.first + nth) * size + ((hpa - start) % size));
        } else if (hpa >= start && hpa - start < size) {
          for (let nth = 0n; nth < run.count && found.length <= MOST_WAYS; nth++) {
            found.push((run.first + nth) * size + hpa - start);
          }
        }
      }
    }
    for (const [start, output, size] of (tables.rows ?? []).map((row) => row.slice(0, 3).map(number))) {
      const gpa = start + hpa - output;
      if (hpa >= output && hpa - output < size && !found.includes(gpa)) found.push(gpa);
    }
    return found.sort((one, other) => (one < other ? -1 : one > other ? 1 : 0));
  };

  const ownerOf = (hpa) => {
    if (data.owners === null) return null;
    if (data.ownersUntil !== null && hpa >= number(data.ownersUntil)) return "This page does not have its owner.";
    const found = inside(data.owners, hpa);
    return found ? found[2] : "The memory belongs to nobody.";
  };

  /* A sentence for every region at a GPA: of declarations there may be several. */
  const regionsOf = (vm, gpa) => {
    const found = vm.regions.filter((region) => has(region, gpa)).map((region) => region[2]);
    return found.length ? found : [data.undeclared];
  };

  /* Links from a VM's addresses to host memory, of declarations. */
  const links = (vm) => vm.parties.flatMap((party) => party.behind.map((link) => [party, link]));

  const declared = (vm, gpa) => {
    const mine = links(vm).filter(([, link]) => has(link.gpa, gpa));
    const lines = mine.map(([party, link]) => {
      if (!link.hpa) return `${party.name}: ${link.said}.`;
      if (link.scattered) return `${party.name}: among HPA ${hex(number(link.hpa[0]))} to ${hex(number(link.hpa[1]))}.`;
      return `${party.name}: it would lie at HPA ${hex(number(link.hpa[0]) + gpa - number(link.gpa[0]))}.`;
    });
    const known = mine.filter(([, link]) => link.hpa && !link.scattered);
    const hpa = known.length ? number(known[0][1].hpa[0]) + gpa - number(known[0][1].gpa[0]) : null;
    return { hpa, lines: lines.length ? lines : [data.nowhere] };
  };

  return { MOST_WAYS, walk, waysTo, ownerOf, regionsOf, links, declared };
};
