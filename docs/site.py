"""Pages of the site that are generated: the overview, the configuration reference, and the Python API.

A hook of mkdocs (`mkdocs.yml`): the overview is README.md, the reference is conf/ with its comments, the API is what
the packages export.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
CONF, SOURCES = ROOT / "conf", ROOT / "src"
PACKAGES = ("attention", "models", "data", "training", "cost")
MORE = "More"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Expand the navigation.

    Raises:
        PluginError: it names a page that does not exist.
    """
    written = {path.name for path in Path(config.docs_dir).glob("*.md")}
    nav = _filled(config.nav)
    if missing := set(_targets(nav)) - written - {"index.md", *_generated()}:
        raise PluginError(f"mkdocs.yml names pages that are not in {config.docs_dir}: {', '.join(sorted(missing))}")
    named = set(_targets(nav))
    more = next(section[MORE] for section in nav if MORE in section)
    more += sorted(written - named)
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {"index.md": readme.replace("](docs/", "]("), **_generated()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links to files of the repository to their place on the site."""
    up = "../" * page.file.src_uri.count("/")
    markdown = markdown.replace("](../README.md)", f"]({up}index.md)")
    markdown = re.sub(r"\]\(\.\./src/([\w/]+)\.py\)", lambda m: f"][{m[1].replace('/', '.')}]", markdown)
    markdown = re.sub(r"\]\(\.\./conf/(\w+)/(\w+)\.yaml\)", rf"]({up}reference/\1.md#\2)", markdown)
    return _spaced_lists(markdown)


def _generated() -> dict[str, str]:
    """Path and text of the reference and API pages."""
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    commands = sorted(path.stem for path in CONF.glob("*.yaml"))
    return (
        {"reference/commands.md": _commands(commands)}
        | {f"reference/{group}.md": _group(group) for group in groups}
        | {f"api/{package}.md": _package(package) for package in PACKAGES}
    )


def _filled(nav: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`nav` with directories replaced by their pages."""
    filled = []
    for entry in nav:
        [(title, target)] = entry.items()
        if isinstance(target, list):
            target = _filled(target)
        elif target.endswith("/"):
            target = [name for name in _generated() if name.startswith(target)]
        filled.append({title: target})
    return filled


def _targets(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from _targets(target) if isinstance(target, list) else [target]


def _commands(names: list[str]) -> str:
    parts = [
        "# Commands",
        "The output of `--help`, and all keys with their defaults. Each group has [a page of its own](attention.md).",
    ]
    for name in names:
        text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
        own, _, hydra = text.partition("\nhydra:\n")
        shown = yaml.safe_load(hydra)["help"]["template"].replace("${fvit.groups:}", "  …").replace("$$", "$")
        parts += [f"## fvit-{name}", _fenced(shown, "text"), _fenced(own.strip())]
    return "\n\n".join(parts)


def _group(group: str) -> str:
    """A group: its default, the prefix of its keys, and the file of each option."""
    options = {path.stem: path.read_text(encoding="utf-8") for path in sorted((CONF / group).glob("[!_]*.yaml"))}
    packages = {match[1] if (match := re.match(r"# @package (\S+)", text)) else group for text in options.values()}
    [package] = packages if len(packages) == 1 else [group]
    where = "at the top level" if package == "_global_" else f"under `{package}`"
    chosen = [name for name, value in _defaults().items() if name == group and value]
    default = f"`{group}={_defaults()[group]}` is the default of `fvit-train`. " if chosen else ""
    parts = [f"# {group}", f"{default}The keys of its options are {where}.", _table(options)]
    for name, text in options.items():
        parts += [f"## {name}", _fenced(re.sub(r"^# @package .*\n", "", text).strip())]
    return "\n\n".join(parts)


def _table(options: dict[str, str]) -> str:
    rows = [f"| [`{name}`](#{name}) | {_summary(text)} |" for name, text in options.items()]
    return "\n".join(["| option | |", "| --- | --- |", *rows])


def _summary(text: str) -> str:
    """The comment at the top of an option file."""
    comment = re.match(r"(?:# @package .*\n)?((?:#.*\n)*)", text)[1]
    lines = [line.lstrip("# ").rstrip() for line in comment.splitlines()]
    return re.sub(r"\s{2,}", " ", " ".join(lines)).replace("|", "\\|")


def _defaults() -> dict[str, str]:
    entries = yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    return {key: value for entry in entries if isinstance(entry, dict) for key, value in entry.items()}


def _package(package: str) -> str:
    """What a package exports, by module."""
    tree = ast.parse((SOURCES / "fvit" / package / "__init__.py").read_text(encoding="utf-8"))
    exported = {
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        for name in ast.literal_eval(node.value)
    }
    parts = [f"# fvit.{package}", ast.get_docstring(tree)]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if alias.name in exported]
            listed = "\n".join(f"        - {name}" for name in names)
            options = f"    options:\n      heading_level: 2\n      show_root_full_path: true\n      members:\n{listed}"
            parts.append(f"::: {node.module}\n{options}")
    return "\n\n".join(parts)


def _fenced(text: str, language: str = "yaml") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _spaced_lists(markdown: str) -> str:
    """Insert a blank line between a paragraph and a list: Python-Markdown needs it, GitHub does not."""
    lines, fenced = [], False
    for line in markdown.splitlines():
        fenced ^= line.startswith("```")
        begins = not fenced and re.match(r"[*-] ", line)
        if begins and lines and lines[-1].strip() and not re.match(r"[*-] | {2,}", lines[-1]):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"
