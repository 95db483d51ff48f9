// The text below the Near-sighted sliders: how many tiles, and how much self-attention is left at the present size.
// The formulas are those of lib_attn/estimate.py and lib_attn/techniques/near_sighted.py; a test compares them.

var attentionLab = (function() {
    var families = {
        "SD 1, 2": {
            breakEven: 96 * 96,
            blocks: [
                ["in", [1, 2], 0, 1], ["in", [4, 5], 1, 1], ["in", [7, 8], 2, 1], ["mid", [0], 3, 1],
                ["out", [3, 4, 5], 2, 1], ["out", [6, 7, 8], 1, 1], ["out", [9, 10, 11], 0, 1],
            ],
        },
        "SDXL": {
            breakEven: 192 * 192,
            blocks: [
                ["in", [4, 5], 1, 2], ["in", [7, 8], 2, 10], ["mid", [0], 2, 10],
                ["out", [0, 1, 2], 2, 10], ["out", [3, 4, 5], 1, 2],
            ],
        },
    };
    var minTile = 8;
    var worthwhileShare = 0.6;
    var leastTokens = 2048;

    var texts = {
        tiles: "{family}: {tiles} tiles, {left} % of the self-attention left",
        untiled: "{family}: no tiles, {left} % of the self-attention left",
        exact: "{family}: full attention at this size, nothing to gain",
        little: "(little to gain at this size)",
        first: "{size}:",
        unread: "Blocks: not understood, so auto is used",
    };

    function halved(size, depth) {
        for (var i = 0; i < depth; i++) {
            size = Math.ceil(size / 2);
        }
        return size;
    }

    // Python rounds halves to the even neighbour.
    function round(x) {
        var low = Math.floor(x);
        if (x - low != 0.5) return Math.round(x);
        return low % 2 == 0 ? low : low + 1;
    }

    function timeCurve(base, peak, s) {
        if (!peak) return base;
        return base + (peak - base) * Math.exp(-Math.pow((0.5 - s.peak_time) * s.time_decay, 2));
    }

    function windowCells(size, window, cell) {
        return Math.min(Math.ceil(size / cell), Math.ceil(window / cell) + (cell > 1 ? 1 : 0));
    }

    function plan(h, w, s, depth) {
        var scale = Math.pow(2, -depth * s.depth_scaling);
        var tile = 0;
        if (s.tile_count) {
            tile = Math.ceil(Math.max(h, w) / s.tile_count);
        } else if (s.tile) {
            tile = Math.max(minTile, round(timeCurve(s.tile, s.tile_peak, s) * scale));
        }
        var pool = s.pool ? Math.max(1, round(timeCurve(s.pool, s.pool_peak, s) * scale)) : 0;
        var window = tile ? tile + 2 * round(s.halo * scale) : 0;
        var local = s.local_shape == "1D" ? [1, s.local_pool] : [s.local_pool, s.local_pool];
        var unpooled = s.local_pool == 1;
        var keys = tile ? windowCells(h, window, local[0]) * windowCells(w, window, local[1]) : 0;
        keys += pool ? Math.ceil(h / pool) * Math.ceil(w / pool) : 0;
        return {
            tiles: tile ? Math.ceil(h / tile) * Math.ceil(w / tile) : 1,
            cost: keys / (h * w),
            exact: tile ? unpooled && (window >= Math.max(h, w) || pool == 1) : pool <= 1,
        };
    }

    // The rules of a block selector, [] for auto, null when it cannot be read.
    function parseBlocks(text) {
        var items = text.trim().toLowerCase().split(/[,;\s]+/).filter(Boolean);
        if (items.length == 0 || (items.length == 1 && items[0] == "auto")) return [];
        var rules = [];
        for (var item of items) {
            var match = /^(!?)(all|in|mid|m|out|d)(?:(\d{1,2})(?:-(\d{1,2}))?)?$/.exec(item);
            if (!match || (match[2] == "all" && match[3]) || (match[2] == "d" && !match[3])) return null;
            var low = match[3] ? Number(match[3]) : 0;
            var high = match[4] ? Number(match[4]) : (match[3] ? low : 99);
            if (low > high) return null;
            rules.push({include: !match[1], section: match[2] == "m" ? "mid" : match[2], low: low, high: high});
        }
        return rules;
    }

    function matches(rules, section, number, depth) {
        var chosen = !rules[0].include;
        for (var rule of rules) {
            var n = rule.section == "d" ? depth : number;
            var named = (rule.section == "d" || rule.section == section) && rule.low <= n && n <= rule.high;
            if (rule.section == "all" || named) chosen = rule.include;
        }
        return chosen;
    }

    function estimate(width, height, s, family) {
        var rules = parseBlocks(s.blocks) || [];
        var full = 0, left = 0, tiles = 0, largest = 0;
        for (var [section, numbers, depth, count] of families[family].blocks) {
            var h = halved(Math.ceil(height / 8), depth), w = halved(Math.ceil(width / 8), depth);
            var p = plan(h, w, s, depth);
            for (var number of numbers) {
                var cost = h * w * h * w * Math.min(Math.pow(2, depth), 4) * count;
                var saves = h * w >= leastTokens && p.cost <= worthwhileShare;
                var chosen = !p.exact && (rules.length ? matches(rules, section, number, depth) : saves);
                full += cost;
                left += cost * (chosen ? p.cost : 1);
                if (chosen && h * w > largest) {
                    tiles = p.tiles;
                    largest = h * w;
                }
            }
        }
        var share = left / full;
        if (s.exact_every) share += (1 - share) / s.exact_every;
        return {tiles: tiles, left: 1 - (1 - share) * Math.max(0, s.end - s.start)};
    }

    function translated(text, values) {
        var known = typeof localization == "object" && localization ? localization[text] : null;
        return (known || text).replace(/\{(\w+)\}/g, function(all, name) {
            return name in values ? String(values[name]) : all;
        });
    }

    function describe(width, height, s) {
        var parts = [translated(texts.first, {size: width + " × " + height})];
        for (var family in families) {
            var e = estimate(width, height, s, family);
            var tokens = Math.ceil(width / 8) * Math.ceil(height / 8);
            var values = {family: family, tiles: e.tiles, left: Math.max(1, Math.round(100 * e.left))};
            if (e.left >= 1) {
                parts.push(translated(texts.exact, values) + ".");
                continue;
            }
            var line = translated(s.tile || s.tile_count ? texts.tiles : texts.untiled, values);
            if (tokens < families[family].breakEven || e.left > 0.8) line += " " + translated(texts.little, {});
            parts.push(line + ".");
        }
        return parts.join(" ");
    }

    function number(id) {
        var input = document.querySelector("#" + id + " input[type=number]");
        return input && input.value !== "" ? Number(input.value) : null;
    }

    function readSettings(prefix) {
        var s = {};
        for (var name of ["tile", "tile_count", "halo", "pool", "exact_every", "local_pool", "tile_peak", "pool_peak",
            "peak_time", "time_decay", "depth_scaling", "start", "end"]) {
            s[name] = number(prefix + name);
            if (s[name] === null) return null;
        }
        var blocks = document.querySelector("#" + prefix + "blocks input, #" + prefix + "blocks textarea");
        var shape = document.querySelector("#" + prefix + "local_shape input:checked");
        s.blocks = blocks ? blocks.value : "auto";
        s.local_shape = shape ? shape.value : "2D";
        return s;
    }

    // The size of the hires pass, as the host works it out; null when there is none.
    function hiresSize(tab, width, height) {
        var on = document.querySelector("#" + tab + "_hr-checkbox input");
        if (!on || !on.checked) return null;
        var x = number(tab + "_hr_resize_x"), y = number(tab + "_hr_resize_y"), scale = number(tab + "_hr_scale");
        if (!x && !y) return [Math.round(width * scale), Math.round(height * scale)];
        return [x || Math.round(y * width / height), y || Math.round(x * height / width)];
    }

    function update() {
        document.querySelectorAll(".attention-lab-live").forEach(function(line) {
            var box = line.closest("[id$=_near_sighted_live]");
            if (!box) return;
            var prefix = box.id.replace(/live$/, "");
            var tab = (/(txt2img|img2img)/.exec(prefix) || ["lab"])[0];
            var width = number(tab + "_width"), height = number(tab + "_height");
            var s = width && height ? readSettings(prefix) : null;
            var text = "";
            if (s) {
                var hires = hiresSize(tab, width, height);
                text = describe(width, height, s);
                if (hires && hires[0] && hires[1]) text += "\n" + describe(hires[0], hires[1], s);
                if (parseBlocks(s.blocks) === null) text += "\n" + translated(texts.unread, {}) + ".";
            }
            if (line.textContent !== text) line.textContent = text;
        });
    }

    var waiting = false;

    function updateSoon() {
        if (waiting) return;
        waiting = true;
        setTimeout(function() {
            waiting = false;
            update();
        }, 100);
    }

    return {texts: texts, estimate: estimate, describe: describe, parseBlocks: parseBlocks, updateSoon: updateSoon};
})();

if (typeof document !== "undefined") {
    document.addEventListener("input", attentionLab.updateSoon);
    document.addEventListener("change", attentionLab.updateSoon);
    if (typeof onAfterUiUpdate === "function") {
        onAfterUiUpdate(attentionLab.updateSoon);
    } else {
        document.addEventListener("click", attentionLab.updateSoon);
    }
}
