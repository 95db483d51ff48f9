"""Move and read the panel's controls, in the host's page and in a plain gradio page."""

import json


class Controls:
    """`prefix` is what the page puts before our names, e.g. ``script_txt2img_attention_lab_``."""

    def __init__(self, page, prefix):
        self.page, self.prefix = page, prefix

    def find(self, name, inner=""):
        return self.page.locator(f"#{self.prefix}{name} {inner}".strip())

    def set_number(self, name, value):
        box = self.find(name, "input[type=number]")
        box.fill(str(value))
        box.press("Enter")
        box.blur()

    def number(self, name):
        return float(self.find(name, "input[type=number]").input_value())

    def wait_number(self, name, value):
        box = f"#{self.prefix}{name} input[type=number]"
        reads = "([box, value]) => document.querySelector(box).value == value"
        self.page.wait_for_function(reads, arg=[box, str(value)])

    def set_text(self, name, value):
        box = self.text_box(name)
        box.fill(value)
        box.blur()

    def text_box(self, name):
        return self.page.locator(f"#{self.prefix}{name} input, #{self.prefix}{name} textarea").first

    def text(self, name):
        return self.text_box(name).input_value()

    def choose(self, name, value):
        self.find(name, f"input[value='{value}']").check()

    def chosen(self, name):
        return self.find(name, "input:checked").get_attribute("value")

    def open(self, name):
        header = self.find(name, "> .label-wrap")
        if "open" not in (header.get_attribute("class") or "").split():
            header.click()

    def pick(self, name, value):
        """Choose an entry of a dropdown."""
        self.find(name, "input").first.click()
        self.page.locator("ul.options li, ul[role=listbox] li").filter(has_text=value).first.click()

    def switch(self, name, on=True):
        """A technique's own switch, which stands in its folded header."""
        self.find(f"{name}-checkbox", "input").set_checked(on)

    def is_open(self, name):
        return "open" in (self.find(name, "> .label-wrap").get_attribute("class") or "").split()

    def live(self, name="near_sighted"):
        return self.find(f"{name}_live").first.inner_text()

    def wait_live(self, text, name="near_sighted"):
        shown = json.dumps(text, ensure_ascii=False)
        self.find(f"{name}_live", f".attention-lab-live:has-text({shown})").first.wait_for(state="attached")

    def wait_told(self, text):
        self.find("preset_said", f":text({json.dumps(text, ensure_ascii=False)})").first.wait_for()

    def wait_changed(self, changed):
        state = "attached" if changed else "detached"
        self.find("preset", ".attention-lab-changed").wait_for(state=state)

    def offered(self, name):
        """The entries of a dropdown."""
        self.find(name, "input").first.click()
        found = self.page.locator("ul.options li").all_inner_texts()
        self.page.keyboard.press("Escape")
        self.find(name, "input").first.blur()
        return [text.strip().lstrip("✓").strip() for text in found]
