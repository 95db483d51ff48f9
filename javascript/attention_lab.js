// Keeps the panel alive: reads what stands on the page, asks Python what it is going to do, and shows the sentences.
// All that is known of parameters and techniques comes with the page; nothing is computed here.

var attentionLab = (function() {
    var texts = {
        changed: "changed",
        recorded: "Recorded: {prompt}, {width} × {height}, {mib} MiB.",
        remove: "remove",
        unread: "{name} is no picture that can be read, and is left out.",
    };
    var PATIENCE = 5000; // ms that an answer may take
    var panels = {};
    var waiting = false;

    function find(id, inner) {
        return document.querySelector("#" + CSS.escape(id) + (inner ? " " + inner : ""));
    }

    function localized(text) {
        return (typeof localization == "object" && localization && localization[text]) || text;
    }

    function translated(text, values) {
        return localized(text).replace(/\{(\w+)\}/g, function(all, name) {
            return values && name in values ? valueOf(name, String(values[name])) : all;
        });
    }

    // What is put into a sentence: choices as their control has them, words, or a sentence that has lost its stop.
    function valueOf(name, text) {
        if (name == "choices") return text.split(", ").map(localized).join(", ");
        var found = wholly(text), ended = text + ".";
        if (found !== text) return found;
        var whole = translatedMessage(ended);
        return whole === null ? text : whole.replace(/[.。]$/, "");
    }

    var templates = null;

    function templatesOf(table) {
        return Object.keys(table).filter((key) => /\{\w+\}/.test(key)).map(function(key) {
            var names = [];
            var pattern = key.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{(\w+)\}/g, function(all, name) {
                names.push(name);
                return "(.+?)";
            });
            return {pattern: new RegExp("^" + pattern + "$"), names: names, text: key};
        });
    }

    // A message with values in it, in the page's language; null when it is none of ours.
    function translatedMessage(text) {
        if (typeof localization != "object" || !localization) return null;
        templates = templates || templatesOf(localization);
        for (var template of templates) {
            var match = template.pattern.exec(text);
            if (!match) continue;
            var values = {};
            template.names.forEach(function(name, i) {
                values[name] = match[i + 1];
            });
            return translated(template.text, values);
        }
        return null;
    }

    // A text in the page's language: as it stands, with values in it, or as several sentences.
    function wholly(text) {
        var found = translatedMessage(text) || localized(text);
        var parts = found === text ? text.split(/(?<=[.]) (?=\S)/) : [];
        return parts.length > 1 ? parts.map(wholly).join(" ") : found;
    }

    function translateMessages() {
        var places = document.querySelectorAll(".attention-lab-sentence, [id^=html_log_] .comments, [id^=html_log_] .error");
        places.forEach(function(place) {
            Array.from(place.childNodes).forEach(function(node) {
                // The host puts the kind of error before it, where an axis of X/Y/Z cannot have a value.
                var text = node.nodeType == 3 ? translatedMessage(node.textContent.trim().replace(/^\w+Error: /, "")) : null;
                if (text !== null) node.textContent = text;
            });
        });
    }

    function number(id) {
        var input = find(id, "input[type=number]");
        return input && input.value !== "" ? Number(input.value) : null;
    }

    function read(id) {
        var box = find(id);
        if (!box) return undefined;
        var input = box.querySelector("input[type=number]");
        if (input) return input.value === "" ? undefined : Number(input.value);
        input = box.querySelector("input[type=radio]:checked");
        if (input) return input.value;
        input = box.querySelector("input[type=checkbox]");
        if (input) return input.checked;
        input = box.querySelector("input, textarea");
        return input ? input.value : undefined;
    }

    function tabOf(prefix) {
        return (/(txt2img|img2img)/.exec(prefix) || ["lab"])[0];
    }

    // The size of the hires pass, as the host works it out; null when there is none.
    function hiresSize(tab, width, height) {
        var on = find(tab + "_hr-checkbox", "input");
        if (!on || !on.checked) return null;
        var x = number(tab + "_hr_resize_x"), y = number(tab + "_hr_resize_y"), scale = number(tab + "_hr_scale");
        if (!x && !y) return [Math.round(width * scale), Math.round(height * scale)];
        return [x || Math.round(y * width / height), y || Math.round(x * height / width)];
    }

    // img2img at "Resize by": the size that the host shows there.
    function resizedBy(tab) {
        var preview = find(tab + "_scale_resolution_preview");
        if (!preview || preview.offsetParent === null) return null;
        var sizes = preview.textContent.match(/\d+\s*[x×]\s*\d+/g);
        return sizes ? sizes[sizes.length - 1].split(/[x×]/).map(Number) : null;
    }

    // How many steps the host makes when it starts from a picture.
    function stepsOf(steps, denoising) {
        return denoising === null ? steps : Math.min(steps, Math.floor(Math.min(denoising, 0.999) * steps) + 1);
    }

    function facts(panel) {
        var tab = tabOf(panel.prefix), values = {};
        panel.params.forEach(function(param) {
            var value = read(param.id);
            if (value !== undefined) values[param.key] = value;
        });
        var steps = number(tab + "_steps"), denoising = number(tab + "_denoising_strength");
        var pictures = {};
        panel.pictures.forEach(function(param) {
            var img = find(param.id, "img");
            if (img) pictures[param.key] = [img.naturalWidth, img.naturalHeight];
        });
        var found = {
            values: values, pictures: pictures, width: number(tab + "_width"), height: number(tab + "_height"),
            cfg: number(tab + "_cfg_scale"), batch: number(tab + "_batch_size"),
            steps: tab == "img2img" ? stepsOf(steps, denoising) : steps,
            preset: read(panel.prefix + "preset"),
        };
        var negative = find(tab + "_neg_prompt", "textarea");
        if (negative) found.negative = negative.value.trim() !== "";
        var resized = resizedBy(tab);
        if (resized) [found.width, found.height] = resized;
        var hires = hiresSize(tab, found.width, found.height);
        if (hires) {
            [found.hires_width, found.hires_height] = hires;
            found.hires_steps = stepsOf(number(tab + "_hires_steps") || steps, denoising);
        }
        return JSON.stringify(found);
    }

    // What else may change the answer: a picture was made, the checkpoint was changed, a preset was saved.
    function events() {
        var seen = ["#html_info_txt2img", "#html_info_img2img", "#setting_sd_model_checkpoint", "[id$=preset_said]"];
        return seen.map(function(selector) {
            return Array.from(document.querySelectorAll(selector)).map(function(element) {
                var input = element.querySelector("input");
                return element.textContent + (input ? input.value : "");
            }).join();
        }).join();
    }

    function press(id) {
        var button = find(id);
        if (button) button.click();
    }

    function write(box, said) {
        if (!box) return;
        box.textContent = "";
        [["line", said.lines], ["warning", said.warnings]].forEach(function([kind, sentences]) {
            sentences.forEach(function(sentence) {
                var p = document.createElement("p");
                p.className = "attention-lab-" + kind;
                // A sentence with places for values is no message that has them already.
                var whole = Object.keys(sentence.values || {}).length ? null : translatedMessage(sentence.text);
                p.textContent = (sentence.before ? translated(sentence.before) + ": " : "") +
                    (whole || translated(sentence.text, sentence.values));
                box.appendChild(p);
            });
        });
    }

    function isOpen(prefix, name) {
        return Boolean(find(prefix + name, ".label-wrap.open"));
    }

    // What is on and folded, in one place; open techniques show their own.
    function together(prefix, answer) {
        var all = {lines: answer.general.lines.slice(), warnings: answer.general.warnings.slice()};
        answer.active.filter(([name]) => !isOpen(prefix, name)).forEach(function([name, label]) {
            ["lines", "warnings"].forEach(function(kind) {
                answer.techniques[name][kind].forEach(function(sentence) {
                    all[kind].push({before: label, text: sentence.text, values: sentence.values});
                });
            });
        });
        return all;
    }

    function show(prefix, text) {
        var panel = panels[prefix], answer;
        try {
            answer = JSON.parse(text);
        } catch (error) {
            return [];
        }
        if (!panel) return [];
        [panel.asked, panel.shown] = [0, panel.told];
        panel.answer = answer;
        showTogether(prefix);
        for (var name in answer.techniques) {
            write(find(prefix + name + "_live", ".attention-lab-live"), answer.techniques[name]);
        }
        showRecorded(prefix, answer.recorded);
        var label = find(prefix + "preset", "[data-testid=block-info]");
        if (label) {
            label.classList.toggle("attention-lab-changed", Boolean(answer.changed));
            label.dataset.changed = translated(texts.changed);
        }
        if (answer.names) {
            var names = JSON.stringify(answer.names);
            if (panel.names && panel.names !== names) press(prefix + "refresh");
            panel.names = names;
        }
        update();
        return [];
    }

    function showTogether(prefix) {
        var answer = panels[prefix].answer;
        if (!answer) return;
        panels[prefix].folded = answer.active.map(([name]) => isOpen(prefix, name)).join();
        write(find(prefix + "general_live", ".attention-lab-live"), together(prefix, answer));
    }

    // A technique was folded or opened since.
    function isShown(panel) {
        return !panel.answer || panel.folded === panel.answer.active.map(([name]) => isOpen(panel.prefix, name)).join();
    }

    function showRecorded(prefix, recorded) {
        var line = find(prefix + "recorded", ".attention-lab-recorded");
        if (line) line.textContent = recorded ? translated(texts.recorded, recorded) : "";
        var button = find(prefix + "recorded_clear");
        if (button) button.classList.toggle("attention-lab-gone", !recorded);
    }

    // What a slider's value means, beside its number: 16 is 128 px.
    function readOut(param) {
        var input = find(param.id, "input[type=number]");
        if (!input || !param.reads) return;
        var out = input.parentElement.querySelector(".attention-lab-reads");
        if (!out) {
            out = document.createElement("span");
            out.className = "attention-lab-reads";
            input.parentElement.insertBefore(out, input.nextSibling);
        }
        var [factor, unit] = param.reads;
        var value = Math.round(Number(input.value) * factor * 100) / 100;
        var text = (factor == 1 ? "" : "= " + value + " ") + translated(unit);
        if (out.textContent !== text) out.textContent = text;
    }

    // Learned files may have come or gone since the page was made.
    function lookForFiles(panel) {
        panel.params.forEach((param) => press(param.id + "_look"));
    }

    function setUp(element) {
        var schema = JSON.parse(element.dataset.schema), prefix = schema.prefix;
        var panel = panels[prefix];
        if (panel && panel.element === element) return panel;
        panel = panels[prefix] = {prefix: prefix, params: schema.params, pictures: schema.pictures, element: element, seen: null, asked: 0, applying: 0, told: null, shown: null, names: null};
        var clear = find(prefix + "recorded_clear");
        if (clear) clear.addEventListener("click", () => press(prefix + "clear"));
        schema.params.forEach(function(param) {
            // Switching a technique on opens it; folding it never switches.
            var box = isSwitch(param.id) ? find(param.id, "input") : null;
            var header = box ? find(param.id.replace(/-checkbox$/, ""), ".label-wrap") : null;
            if (!box || !header) return;
            box.addEventListener("change", function(event) {
                if (event.isTrusted && box.checked && !header.classList.contains("open")) header.click();
            });
        });
        press(prefix + "start");
        // Not at once: what a fresh page begins with comes first.
        setTimeout(() => lookForFiles(panel), 3000);
        return panel;
    }

    // What is shown holds for values that are no longer there: it is hidden until the answer comes.
    function wait(panel, on) {
        document.querySelectorAll("[id^=" + CSS.escape(panel.prefix) + "][id$=_live]").forEach(function(place) {
            place.classList.toggle("attention-lab-waiting", on);
        });
    }

    // A preset is being applied: Python sends its values.
    function applying(prefix, off) {
        var panel = panels[prefix];
        if (!panel) return;
        panel.applying = Date.now();
        wait(panel, true);
        if (off) fold(panel);
    }

    function applied(prefix) {
        if (panels[prefix]) panels[prefix].applying = 0;
        updateSoon();
    }

    // Techniques that were opened, by their switch or by hand; all are off now.
    function fold(panel) {
        panel.params.filter((param) => isSwitch(param.id)).forEach(function(param) {
            var header = find(param.id.replace(/-checkbox$/, ""), ".label-wrap");
            if (header && header.classList.contains("open")) header.click();
        });
    }

    // Of a technique; the master's is part of its accordion.
    function isSwitch(id) {
        return /-checkbox$/.test(id) && Boolean(find(id)) && find(id).classList.contains("attention-lab-switch");
    }

    function update() {
        waiting = false;
        translateMessages();
        var around = events();
        document.querySelectorAll(".attention-lab-data").forEach(function(element) {
            var panel = setUp(element);
            panel.params.forEach(readOut);
            if (!isShown(panel)) showTogether(panel.prefix);
            var told = facts(panel), now = told + around, since = Date.now() - PATIENCE;
            wait(panel, panel.applying > since || told !== panel.shown);
            // One question at a time: answers that overtake one another would leave an old one standing.
            if (panel.applying > since || now === panel.seen || panel.asked > since) return;
            [panel.seen, panel.told, panel.asked] = [now, told, Date.now()];
            press(panel.prefix + "ask");
        });
    }

    function updateSoon() {
        if (waiting) return;
        waiting = true;
        setTimeout(update, 150);
    }

    // What a button has said holds no longer when something else is chosen or typed.
    function forget(event) {
        if (!event.isTrusted || (event.type == "mousedown" && !event.target.closest("ul.options"))) return;
        document.querySelectorAll(".attention-lab-forget").forEach(function(button) {
            var ours = "[id^=" + CSS.escape(button.id.replace(/forget$/, "")) + "]";
            var told = Array.from(document.querySelectorAll(ours + ".attention-lab-answer"));
            if (event.target.closest(ours) && told.some((answer) => answer.textContent.trim())) button.click();
        });
    }

    // Another page may have saved a preset meanwhile.
    function lookAgain() {
        for (var prefix in panels) panels[prefix].seen = null;
        updateSoon();
    }

    // The page "Learn": the text of a file that the user has chosen becomes the prompts.
    function load(input) {
        var prompts = find("attention_lab_learn_prompts", "textarea");
        if (!prompts || !input.files.length) return;
        input.files[0].text().then(function(text) {
            prompts.value = text;
            prompts.dispatchEvent(new Event("input", {bubbles: true}));
            input.value = "";
        });
    }

    // The page "Learn": own pictures, which stay in the browser until Learn is pressed.
    var own = (function() {
        var LARGEST = 2048; // px of the longer side; what is larger is made smaller before it is sent
        var UNDERSTOOD = /^image\/(png|jpeg|webp|gif|bmp)$/; // what else the browser can read is sent as PNG
        var list = []; // of {name, address}
        var left = []; // names of files that are left out

        function show() {
            var box = find("attention_lab_learn_own");
            if (!box) return;
            var thumbs = box.querySelector(".attention-lab-thumbs");
            if (!thumbs) {
                thumbs = document.createElement("div");
                thumbs.className = "attention-lab-thumbs";
                box.appendChild(thumbs);
            }
            thumbs.replaceChildren(...list.map(function(one) {
                var button = document.createElement("button"), picture = document.createElement("img");
                picture.src = one.address;
                button.title = [one.name, localized(texts.remove)].filter(Boolean).join(": ");
                button.append(picture);
                button.addEventListener("click", function() {
                    list = list.filter((other) => other !== one);
                    show();
                });
                return button;
            }), ...left.map(function(name) {
                var line = document.createElement("p");
                line.className = "attention-lab-warning";
                line.textContent = translated(texts.unread, {name: name});
                return line;
            }));
        }

        function inBase64(blob) {
            return new Promise(function(done) {
                var reader = new FileReader();
                reader.onload = () => done(reader.result);
                reader.readAsDataURL(blob);
            });
        }

        // A data URL; null where the browser finds no picture.
        async function sendable(blob) {
            var picture = await createImageBitmap(blob).catch(() => null);
            if (!picture) return null;
            var scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
            if (scale == 1 && UNDERSTOOD.test(blob.type)) return inBase64(blob);
            var canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [picture.width, picture.height].map((side) => Math.round(side * scale));
            var context = canvas.getContext("2d");
            context.imageSmoothingQuality = "high";
            context.drawImage(picture, 0, 0, canvas.width, canvas.height);
            return canvas.toDataURL("image/png");
        }

        async function add(blobs) {
            left = [];
            for (var blob of blobs) {
                var address = await sendable(blob);
                if (address) list.push({name: blob.name || "", address: address});
                else left.push(blob.name);
            }
            show();
        }

        return {
            list: () => list.map((one) => one.address),
            add: function(input) {
                add(Array.from(input.files)).then(() => input.value = "");
            },
            drop: function(event) {
                var box = event.target.closest("#attention_lab_learn_own");
                if (!box) return;
                event.preventDefault();
                if (event.type == "drop") add(Array.from(event.dataTransfer.files));
            },
            // What the gallery shows, without the grid that the host puts before several pictures.
            take: async function() {
                var told = find("generation_info_txt2img", "textarea"), first = 0;
                try {
                    first = JSON.parse(told.value).index_of_first_image || 0;
                } catch (error) {
                    first = 0;
                }
                var places = document.querySelectorAll("#txt2img_gallery .grid-container img, #txt2img_gallery .thumbnails img");
                var addresses = Array.from(new Set(Array.from(places).map((img) => img.src))).slice(first);
                var answers = await Promise.all(addresses.map((address) => fetch(address)));
                await add(await Promise.all(answers.map((answer) => answer.blob())));
                return [];
            },
            clear: function() {
                list = left = [];
                show();
                return [];
            },
        };
    })();

    // Gives the job a name by which the host tells how far it is, and takes own pictures along.
    function learn() {
        var args = Array.from(arguments), box = find("attention_lab_learn_own");
        args[0] = randomId();
        args[1] = JSON.stringify(box && box.offsetParent !== null ? own.list() : []);
        var place = find("attention_lab_learn_progress");
        requestProgress(args[0], place, null, function() {
            Object.values(panels).forEach(lookForFiles);
            updateSoon();
        }, function(told) {
            var bar = place.parentNode.querySelector(".progressDiv .progress");
            if (bar && told.textinfo) bar.textContent = bar.textContent.replace(told.textinfo, () => wholly(told.textinfo));
        });
        return args;
    }

    return {
        texts: texts, load: load, own: own, learn: learn, translatedMessage: translatedMessage, updateSoon: updateSoon, lookAgain: lookAgain, forget: forget, show: show,
        applying: applying, applied: applied,
        ask: (prefix) => [panels[prefix] ? facts(panels[prefix]) : ""],
        // The wish is set when this returns; the job takes it along when Generate is pressed, then it is taken back.
        compare: function(prefix) {
            setTimeout(function() {
                press(tabOf(prefix) + "_generate");
                setTimeout(() => press(prefix + "compared"), 500);
            }, 100);
            return true;
        },
    };
})();

if (typeof document !== "undefined") {
    ["input", "change", "mousedown"].forEach((name) => document.addEventListener(name, attentionLab.forget));
    document.addEventListener("input", attentionLab.updateSoon);
    document.addEventListener("change", attentionLab.updateSoon);
    document.addEventListener("click", attentionLab.updateSoon);
    document.addEventListener("dragover", attentionLab.own.drop);
    document.addEventListener("drop", attentionLab.own.drop);
    document.addEventListener("visibilitychange", () => document.hidden || attentionLab.lookAgain());
    window.addEventListener("focus", attentionLab.lookAgain);
    if (typeof onAfterUiUpdate === "function") {
        onAfterUiUpdate(attentionLab.updateSoon);
    } else {
        setInterval(attentionLab.updateSoon, 500);
    }
}
