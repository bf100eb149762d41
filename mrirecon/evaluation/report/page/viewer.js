// Show the images of one case in panels that share slice, window, zoom and position.

const CACHED_SLICES = 12;
const GAINS = [1, 2, 5, 10, 20];

class Viewer {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.slices = new Map(); // promises of decoded slices, by number
    this.first = { slice: data.start, level: 50, width: 100, zoom: 1, y: data.ny / 2, x: data.nx / 2 };
    this.view = { ...this.first, gain: data.gain, signed: false, smooth: false, outline: true, error: false };
    this.flicker = null; // index of the column shown alone
    this.before = 0; // index of the column shown alone before
    this.timer = null;
    this.pointer = null;
    this.build();
    this.listen();
    this.show(this.view.slice);
  }

  // ---- construction -------------------------------------------------------------------------------------------
  build() {
    const { data, root } = this;
    root.append(document.getElementById("viewer-parts").content.cloneNode(true));
    this.grid = root.querySelector(".grid-of-panels");
    this.alone = root.querySelector(".single");
    this.probe = root.querySelector(".probe");
    this.tools = Object.fromEntries([...root.querySelectorAll("[name]")].map((n) => [n.getAttribute("name"), n]));
    this.panels = data.columns.map((column, k) => this.panel(this.grid, "image", k, `${k + 1}`, column.name, column.number));
    this.errors = data.columns.map((column, k) => (k && data.reference ? this.panel(this.grid, "error", k, "", "") : this.still(k)));
    this.single = this.panel(this.alone, "image", 0, "", "");
    this.profile = this.buildProfile();
    this.grid.style.gridTemplateColumns = `repeat(${data.columns.length}, minmax(9rem, 26rem))`;
    this.tools.slice.max = data.slices.length - 1;
    this.tools.gain.value = String(data.gain);
    root.querySelector(".slices").hidden = data.slices.length < 2;
    root.querySelector(".outline").hidden = !data.slices.some((one) => one.region);
    if (!data.reference) this.tools.gain.parentElement.hidden = this.tools.signed.parentElement.hidden = true;
    new ResizeObserver(() => this.redraw()).observe(root);
  }

  panel(parent, kind, column, key, name, number = null) {
    const { ny, nx } = this.data;
    const node = element("div", `panel ${kind}`, parent);
    const title = element("span", "name", node);
    element("b", "", title, key);
    if (key && number !== null) element("span", `key m${number % 8}`, title);
    title.append(name);
    title.title = name;
    const score = element("span", "score", node);
    const canvas = element("canvas", "", node);
    canvas.style.aspectRatio = `${nx * this.data.dx} / ${ny * this.data.dy}`; // CSS limits the height
    return { node, kind, column, title, score, canvas, picture: new Picture(ny, nx) };
  }

  // Draw the mask, its point spread function and the colours of errors below the reference.
  still(k) {
    const node = element("div", "panel still", this.grid);
    if (k) return null;
    if (this.data.sampling.mask) this.sampling(node);
    if (this.data.reference) {
      this.bar = element("canvas", "bar", node);
      [this.bar.width, this.bar.height] = [256, 1];
      this.barText = element("span", "under", node);
    }
    return null;
  }

  sampling(node) {
    const sampling = this.data.sampling;
    element("span", "name", node, `mask, ${sampling.acceleration.toFixed(2)}-fold`);
    const which = sampling.kinds > 1 ? `of item ${sampling.item + 1}; ${sampling.kinds} differ` : "k-space samples";
    const lobe = sampling.highest > 1e-6 ? `highest sidelobe −${(-20 * Math.log10(sampling.highest)).toFixed(1)} dB` : "no sidelobes";
    element("span", "score", node, `${which}; ${lobe}`);
    const size = sampling.spread ? "half" : "";
    const masks = element("div", `stills ${size}`, node);
    drawStill(element("canvas", "", masks), sampling.mask, (v) => GREY[v ? 255 : 0]);
    if (sampling.spread) {
      const canvas = element("canvas", "", masks);
      drawStill(canvas, sampling.spread, (v) => HEAT[Math.round((255 * v) / -this.data.floor)]);
      canvas.title = `point spread function, ${this.data.floor} to 0 dB`;
      element("span", "under", node, `left: mask; right: point spread, −${-this.data.floor} to 0 dB`);
    }
  }

  buildProfile() {
    const { profile, shown } = this.data;
    const longest = Math.max(0, ...profile.curves.map((c) => c.values.length));
    const values = profile.curves.flatMap((c) => c.values).filter((v) => v !== null);
    if (longest < 2 || !values.length) return null;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const label = element("p", "profile-name", null, `${profile.metric} by slice, ${low.toPrecision(3)} to ${high.toPrecision(3)}`);
    this.root.insertBefore(label, this.root.querySelector(".tools"));
    const box = svg("svg", { viewBox: "0 0 1000 44", preserveAspectRatio: "none", class: "profile" });
    this.root.insertBefore(box, this.root.querySelector(".tools"));
    const x = (i) => (1000 * (i + 0.5)) / longest;
    const y = (v) => 4 + 36 * (high > low ? (high - v) / (high - low) : 0.5);
    for (const i of shown) svg("line", { x1: x(i), x2: x(i), y1: 42, y2: 44, class: "mark" }, box);
    for (const curve of profile.curves) {
      const points = curve.values.map((v, i) => (v === null ? null : `${x(i)},${y(v)}`)).filter(Boolean).join(" ");
      svg("polyline", { points, class: `curve m${curve.number % 8}`, "vector-effect": "non-scaling-stroke" }, box);
    }
    svg("title", {}, box).textContent = `${profile.metric} of every slice; click to see one`;
    const cursor = svg("line", { y1: 0, y2: 44, class: "cursor", "vector-effect": "non-scaling-stroke" }, box);
    box.addEventListener("click", (event) => {
      const rect = box.getBoundingClientRect();
      const wanted = ((event.clientX - rect.left) / rect.width) * longest - 0.5;
      const distance = shown.map((i) => Math.abs(i - wanted));
      this.show(distance.indexOf(Math.min(...distance)));
    });
    return { cursor, x };
  }

  // ---- slices -------------------------------------------------------------------------------------------------
  slice(number) {
    if (!this.slices.has(number)) {
      const { slices, ny, nx } = this.data;
      this.slices.set(number, unpackSlice(slices[number], ny, nx));
      if (this.slices.size > CACHED_SLICES) this.slices.delete(this.slices.keys().next().value);
    }
    return this.slices.get(number);
  }

  async show(number) {
    const last = this.data.slices.length - 1;
    this.view.slice = Math.max(0, Math.min(last, number));
    const wanted = this.view.slice;
    const decoded = await this.slice(wanted);
    if (wanted !== this.view.slice) return; // another slice was requested in the meantime
    this.now = decoded;
    this.drawn = wanted;
    this.top = Math.max(...decoded.images.map((v) => v.reduce((a, b) => (a > b ? a : b), 0)));
    this.path = decoded.region ? outlines(decoded.region, this.data.ny, this.data.nx) : null;
    const one = this.data.slices[wanted];
    this.panels.forEach((panel, k) => { panel.score.textContent = one.scores[k]; });
    this.paint();
    if (this.root.contains(document.activeElement)) for (const next of [wanted + 1, wanted - 1]) if (next >= 0 && next <= last) this.slice(next);
  }

  // ---- drawing ------------------------------------------------------------------------------------------------
  each() {
    if (this.flicker !== null) return [this.single];
    return [...this.panels, ...this.errors.filter(Boolean)];
  }

  // Compute the colours of all pictures, and draw them.
  paint() {
    if (!this.now) return;
    const { data, view, now } = this;
    const middle = (view.level / 100) * data.white;
    const half = ((view.width / 100) * data.white) / 2;
    const table = greyTable(this.top, middle - half, middle + half);
    for (const panel of this.each()) {
      const values = now.images[panel.column];
      if (panel.kind === "error") panel.picture.error(values, now.images[0], data.white / view.gain, view.signed);
      else panel.picture.grey(values, table);
    }
    this.updateTools();
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      for (const panel of this.each()) this.draw(panel);
    });
  }

  draw(panel) {
    const { data, view } = this;
    const { canvas } = panel;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    const [sx, sy] = this.scale(width, height);
    context.setTransform(sx, 0, 0, sy, width / 2 - view.x * sx, height / 2 - view.y * sy);
    context.imageSmoothingEnabled = view.smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(panel.picture.canvas, 0, 0);
    context.lineWidth = 1.2 * ratio / sx;
    if (view.outline && this.path) {
      context.strokeStyle = panel.kind === "error" ? "#7dffb0" : "#ffd23f";
      context.stroke(this.path);
    }
    if (this.cross) {
      const [y, x] = this.cross;
      context.lineWidth = ratio / sx;
      context.strokeStyle = "rgb(120 220 255 / 75%)";
      context.strokeRect(x - 2, y - 2, 5, 5);
    }
  }

  // Update the values of the tools and the text below the images.
  updateTools() {
    const { data, view, tools } = this;
    tools.slice.value = view.slice;
    tools["slice-name"].textContent = `${data.slices[view.slice].name} (${view.slice + 1} of ${data.slices.length} shown)`;
    tools.level.value = view.level;
    tools.width.value = view.width;
    tools["level-value"].textContent = `${Math.round(view.level)} %`;
    tools["width-value"].textContent = `${Math.round(view.width)} %`;
    tools.gain.value = String(view.gain);
    tools.signed.checked = view.signed;
    tools.smooth.checked = view.smooth;
    tools.outline.checked = view.outline;
    tools["zoom-value"].textContent = `${Math.round(100 * view.zoom)} %`;
    tools.flicker.setAttribute("aria-pressed", String(this.flicker !== null));
    if (this.bar) {
      const context = this.bar.getContext("2d");
      const colours = context.createImageData(256, 1);
      new Uint32Array(colours.data.buffer).set(view.signed ? SIGNED : HEAT);
      context.putImageData(colours, 0, 0);
      const end = Math.round(100 / view.gain);
      this.barText.textContent = `errors: ${view.signed ? `−${end} to +${end}` : `0 to ${end}`} % of white`;
    }
    for (const panel of this.errors.filter(Boolean)) {
      panel.title.textContent = `${view.signed ? "signed error" : "error"} × ${view.gain}`;
      panel.score.textContent = `${view.signed ? "±" : "0 to "}${Math.round(100 / view.gain)} % of white`;
    }
    if (this.profile) {
      const at = this.profile.x(data.shown[view.slice]);
      this.profile.cursor.setAttribute("x1", at);
      this.profile.cursor.setAttribute("x2", at);
    }
    if (this.flicker === null) return;
    const name = data.columns[this.flicker].name;
    this.single.title.textContent = view.error ? `${this.flicker + 1} ${name}: error × ${view.gain}` : `${this.flicker + 1} ${name}`;
    this.single.score.textContent = `${data.slices[view.slice].scores[this.flicker] || "—"}  (back with Space: ${this.before + 1} ${data.columns[this.before].name})`;
  }

  // ---- interaction --------------------------------------------------------------------------------------------
  set(changes) {
    Object.assign(this.view, changes);
    const view = this.view;
    view.level = Math.max(0, Math.min(150, view.level));
    view.width = Math.max(1, Math.min(200, view.width));
    view.zoom = Math.max(1, Math.min(32, view.zoom));
    const [spareX, spareY] = [this.data.nx / view.zoom / 2, this.data.ny / view.zoom / 2];
    view.x = Math.max(spareX, Math.min(this.data.nx - spareX, view.x));
    view.y = Math.max(spareY, Math.min(this.data.ny - spareY, view.y));
    this.paint();
  }

  reset() {
    const { level, width, zoom, y, x } = this.first;
    this.set({ level, width, zoom, y, x });
  }

  // Zoom by a factor around a point of the image, or around the centre.
  zoom(factor, point) {
    const { view } = this;
    const before = view.zoom;
    const zoom = Math.max(1, Math.min(32, before * factor));
    const [y, x] = point || [view.y, view.x];
    this.set({ zoom, y: y + ((view.y - y) * before) / zoom, x: x + ((view.x - x) * before) / zoom });
  }

  // Show one column alone, or all columns.
  alternate(column) {
    clearInterval(this.timer);
    this.timer = null;
    if (column === null) {
      this.flicker = null;
      this.view.error = false;
    } else {
      if (this.flicker === null) this.before = column === 0 ? this.data.flicker : 0;
      else if (column !== this.flicker) this.before = this.flicker;
      this.flicker = column;
      this.single.column = column;
    }
    const same = this.grid.hidden === (this.flicker !== null);
    this.grid.hidden = this.flicker !== null;
    this.alone.hidden = this.flicker === null;
    if (!same && this.root.getBoundingClientRect().top < 0) this.root.scrollIntoView({ block: "start" });
    this.single.kind = this.view.error && column ? "error" : "image";
    this.paint();
  }

  back() {
    if (this.flicker === null) this.alternate(0);
    else {
      const timer = this.timer;
      this.timer = null; // `alternate` must not stop it
      this.alternate(this.before);
      this.timer = timer;
    }
  }

  // Return the size [horizontal, vertical] of a pixel on a canvas of this size; at 100 %, the whole image fits.
  scale(width, height) {
    const { nx, ny, dx, dy } = this.data;
    const unit = Math.min(width / (nx * dx), height / (ny * dy)) * this.view.zoom;
    return [unit * dx, unit * dy];
  }

  // Return the position (y, x) in the image of a mouse event.
  place(event, canvas) {
    const rect = canvas.getBoundingClientRect();
    const [sx, sy] = this.scale(rect.width, rect.height);
    return [
      this.view.y + (event.clientY - rect.top - rect.height / 2) / sy,
      this.view.x + (event.clientX - rect.left - rect.width / 2) / sx,
    ];
  }

  point(event, canvas) {
    const [y, x] = this.place(event, canvas).map(Math.floor);
    const { data, now } = this;
    this.cross = y >= 0 && x >= 0 && y < data.ny && x < data.nx ? [y, x] : null;
    if (this.cross && now) {
      const i = y * data.nx + x;
      const first = now.images[0][i];
      const values = now.images.map((v, k) => {
        const here = `${data.columns[k].name} ${((100 * v[i]) / data.white).toFixed(1)}`;
        const off = (100 * (v[i] - first)) / data.white;
        return k && data.reference ? `${here} (${off < 0 ? "−" : "+"}${Math.abs(off).toFixed(1)})` : here;
      });
      const label = now.region && now.region[i] ? `; lesion ${now.region[i]}` : "";
      this.probe.textContent = `row ${y}, column ${x}, % of white: ${values.join(", ")}${label}`;
    }
    this.redraw();
  }

  listen() {
    const { tools, root } = this;
    const number = (name) => (event) => this.set({ [name]: Number(event.target.value) });
    tools.slice.addEventListener("input", (event) => this.show(Number(event.target.value)));
    for (const name of ["level", "width", "gain"]) tools[name].addEventListener("input", number(name));
    for (const name of ["signed", "smooth", "outline"])
      tools[name].addEventListener("change", (event) => this.set({ [name]: event.target.checked }));
    tools.in.addEventListener("click", () => this.zoom(1.5));
    tools.out.addEventListener("click", () => this.zoom(1 / 1.5));
    tools.reset.addEventListener("click", () => this.reset());
    tools.flicker.addEventListener("click", () => this.toggle());
    tools.help.addEventListener("click", () => openHelp());
    for (const panel of [...this.panels, ...this.errors.filter(Boolean), this.single]) this.listenTo(panel);
    root.addEventListener("keydown", (event) => this.key(event));
  }

  toggle() {
    this.alternate(this.flicker === null ? this.data.flicker : null);
  }

  listenTo(panel) {
    const { canvas } = panel;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 1) return;
      event.preventDefault();
      this.root.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      const pan = event.button === 1 || event.shiftKey || this.tools.drag.value === "pan";
      this.pointer = { pan, x: event.clientX, y: event.clientY };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.pointer) return this.point(event, canvas);
      const [right, down] = [event.clientX - this.pointer.x, event.clientY - this.pointer.y];
      Object.assign(this.pointer, { x: event.clientX, y: event.clientY });
      const { view } = this;
      if (this.pointer.pan) {
        const [sx, sy] = this.scale(canvas.clientWidth, canvas.clientHeight);
        this.set({ x: view.x - right / sx, y: view.y - down / sy });
      } else this.set({ width: view.width + right * 0.4, level: view.level + down * 0.25 });
    });
    const end = () => { this.pointer = null; };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => {
      this.cross = null;
      this.probe.textContent = "";
      this.redraw();
    });
    canvas.addEventListener("dblclick", () => this.alternate(this.flicker === null ? panel.column : null));
    canvas.addEventListener("wheel", (event) => this.wheel(event, canvas), { passive: false });
  }

  wheel(event, canvas) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * 0.002 * (event.deltaMode ? 20 : 1)), this.place(event, canvas));
      return;
    }
    // With a single slice, or before the images are clicked, the page scrolls.
    if (this.data.slices.length < 2 || document.activeElement !== this.root) return;
    event.preventDefault();
    this.turned = (this.turned || 0) + event.deltaY * (event.deltaMode ? 20 : 1);
    const steps = Math.trunc(this.turned / 40);
    if (!steps) return;
    this.turned -= steps * 40;
    this.show(this.view.slice + Math.sign(steps));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || (event.target !== this.root && event.target.matches("input, select, button"))) return;
    const { view } = this;
    const last = this.data.slices.length - 1;
    const shift = 0.1 / view.zoom;
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const actions = {
      ArrowUp: () => this.show(view.slice - 1),
      ArrowDown: () => this.show(view.slice + 1),
      PageUp: () => this.show(view.slice - 5),
      PageDown: () => this.show(view.slice + 5),
      Home: () => this.show(0),
      End: () => this.show(last),
      w: () => this.show(this.data.start),
      "[": () => this.set({ width: view.width / 1.1 }),
      "]": () => this.set({ width: view.width * 1.1 }),
      ",": () => this.set({ level: view.level - 2 }),
      ".": () => this.set({ level: view.level + 2 }),
      "+": () => this.zoom(1.25),
      "=": () => this.zoom(1.25),
      "-": () => this.zoom(0.8),
      0: () => this.reset(),
      f: () => this.toggle(),
      e: () => { view.error = !view.error && this.data.reference; if (this.flicker !== null) this.alternate(this.flicker); },
      g: () => this.set({ gain: GAINS[(GAINS.indexOf(view.gain) + 1) % GAINS.length] }),
      d: () => this.set({ signed: !view.signed }),
      s: () => this.set({ smooth: !view.smooth }),
      l: () => this.set({ outline: !view.outline }),
      " ": () => this.back(),
      a: () => {
        const running = this.timer !== null;
        if (this.flicker === null) this.back();
        clearInterval(this.timer);
        this.timer = running ? null : setInterval(() => this.back(), 1000);
      },
      Escape: () => this.alternate(null),
    };
    for (let k = 1; k <= Math.min(9, this.data.columns.length); k++) actions[k] = () => this.alternate(k - 1);
    if (event.altKey && moves[event.key]) {
      const [y, x] = moves[event.key];
      actions[event.key] = () => this.set({ y: view.y + y * shift * this.data.ny, x: view.x + x * shift * this.data.nx });
    } else if (event.altKey) return;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }
}
