"""The visible texts of a page, and how well they show."""

import re

# Of each visible text: the text, which selectors match it, its colour, and the background.
VISIBLE_TEXTS = r"""(selectors) => {
  const behind = (element) => {
    const { backgroundColor } = getComputedStyle(element);
    return /^rgba.*, 0\)$/.test(backgroundColor) ? behind(element.parentElement) : backgroundColor;
  };
  const own = (element) => [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE)
    .map((node) => node.textContent.trim()).join("");
  const visible = (e) => own(e) && e.checkVisibility();
  const texts = [...document.body.querySelectorAll(":not(script, style)")].filter(visible).map((element) => {
    const { color, fill } = getComputedStyle(element);
    return [own(element), selectors.filter((selector) => element.matches(selector)),
      element instanceof SVGElement ? fill : color, behind(element)];
  });
  const boxes = [...document.querySelectorAll("input[placeholder]")];
  return texts.concat(boxes.map((box) =>
    [box.placeholder, ["placeholder"], getComputedStyle(box, "::placeholder").color, behind(box)]));
}"""


def contrast(one, other):
    """WCAG's ratio of two colours."""

    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
