"""What the panels of a specification draw, read from the JSON that the server would get."""

from dataclasses import dataclass, field


@dataclass
class Drawn:
    """`pairs` are (x, y) that a row of a history must hold together; `media`, `summary` and `config` are keys."""

    pairs: set = field(default_factory=set)
    summary: set = field(default_factory=set)
    config: set = field(default_factory=set)
    media: set = field(default_factory=set)

    def missing(self, config, summary, rows):
        """What a run did not log."""
        return [
            *(pair for pair in sorted(self.pairs) if not any(set(pair) <= set(row) for row in rows)),
            *(key for key in sorted(self.summary) if key not in summary),
            *(key for key in sorted(self.config) if not _contains(config, key)),
        ]


def drawn_by(node, found=None):
    """All that any panel draws in `node`, a specification or a part of one."""
    found = found or Drawn()
    if isinstance(node, dict):
        if "viewType" in node:
            _panel(node["viewType"], node["config"], found)
        for run_set in node.get("runSets", ()):
            for key in run_set["sort"]["keys"]:
                _accessor(f"{key['key']['section']}:{key['key']['name']}", found)
            for column in run_set["runFeed"]["columnOrder"]:
                _accessor(column, found)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        drawn_by(child, found)
    return found


def _panel(kind, config, found):
    if "groupBy" in config:
        _accessor(f"config:{config['groupBy']}", found)
    match kind:
        case "Run History Line Plot":
            found.pairs |= {(config["xAxis"], metric) for metric in config["metrics"]}
        case "Bar Chart":
            found.summary |= set(config["metrics"])
        case "Scatter Plot":
            for axis in ("xAxis", "yAxis"):
                _accessor(config[axis], found)
        case "Parallel Coordinates Plot":
            for column in config["columns"]:
                _accessor(column["accessor"], found)
        case "Parameter Importance":
            found.summary.add(config["targetKey"])
        case "Media Browser":
            found.media |= set(config["mediaKeys"])
        case "Weave":
            found.media.add(config["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"])
        case "Vega2":
            [query] = config["userQuery"]["queryFields"]
            found.media |= {arg["value"] for one in query["fields"] for arg in one.get("args", [])}
        case "Run Comparer":
            pass
        case _:
            raise ValueError(f"what does a {kind} draw?")


def _accessor(accessor, found):
    section, _, name = accessor.partition(":")
    if section == "config":
        first, value, *rest = name.split(".")
        assert value == "value", f"W&B stores {first} as {first}.value"
        found.config.add(".".join([first, *rest]))
    elif section == "summary":
        found.summary.add(name)
    else:
        assert section == "run", accessor


def _contains(config, key):
    for part in key.split("."):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True
