"""The results of a study: a table on the terminal, and plots on a page that opens offline."""

import html
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from fvit.config.atomic import write_text
from fvit.config.wording import count
from fvit.launch.console import console, print_facts, print_rows

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ margin: 2em auto; max-width: 1100px; padding: 0 1em; font: 15px/1.5 sans-serif; color: #222 }}</style>
<h1>{title}</h1>
<p>{note}</p>
{plots}
</html>
"""


def best_trials(study: optuna.Study, limit: int = 10) -> list[FrozenTrial]:
    """At most `limit` trials, best first; with several objectives the whole Pareto front, sorted."""
    if len(study.directions) > 1:
        return sorted(study.best_trials, key=lambda trial: trial.values)
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    descending = study.direction == optuna.study.StudyDirection.MAXIMIZE
    return sorted(trials, key=lambda trial: trial.value, reverse=descending)[:limit]


def print_study(study: optuna.Study, objective: Sequence[str], folder: Path, page: Path | None) -> None:
    """Print the best trials, the number of trials by status, the paths, and the latest errors."""
    best = best_trials(study)
    if best:
        title = "Pareto front" if len(objective) > 1 else "Best trials"
        names = list(best[0].params)
        rows = [
            (str(trial.number), *(f"{value:.6g}" for value in trial.values), *(_text(trial.params[n]) for n in names))
            for trial in best
        ]
        print_rows(f"{title} of {study.study_name}", ("trial", *objective, *names), rows)
    facts = [("trials", _counts(study)), ("saved to", str(folder))]
    if page is not None:
        facts.append(("plots", str(page)))
    print_facts("", facts)
    for trial in study.get_trials(states=(TrialState.FAIL,))[-3:]:
        reason = trial.user_attrs.get("error", "no reason known")
        console.print(f" trial {trial.number} failed: {reason}", markup=False, soft_wrap=True)


def write_page(study: optuna.Study, objective: Sequence[str], folder: Path) -> Path | None:
    """Write study.html with Optuna's plots, with plotly inlined once; None if there is nothing to plot."""
    from optuna import visualization

    if not study.get_trials(states=(TrialState.COMPLETE,)):
        return None
    if len(objective) in (2, 3):
        figures = [visualization.plot_pareto_front(study, target_names=list(objective))]
    else:
        # One objective, or more than a Pareto plot has axes: each in plots of its own.
        targets = {name: (lambda trial, index=index: trial.values[index]) for index, name in enumerate(objective)}
        several = len(objective) > 1
        figures = [
            plot(study, target=target if several else None, target_name=name)
            for name, target in targets.items()
            for plot in (visualization.plot_optimization_history, visualization.plot_slice)
        ]
        if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
            figures.append(visualization.plot_intermediate_values(study))
    plots = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0, config={"displaylogo": False})
        for number, figure in enumerate(figures)
    ]
    title = f"{', '.join(objective)}: {count(len(study.get_trials(deepcopy=False)), 'trial')}"
    path = folder / "study.html"
    write_text(path, _PAGE.format(title=html.escape(title), note=html.escape(_counts(study)), plots="\n".join(plots)))
    return path


def _counts(study: optuna.Study) -> str:
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    names = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    names |= {TrialState.RUNNING: "interrupted", TrialState.WAITING: "waiting"}
    return ", ".join(f"{states.count(state)} {name}" for state, name in names.items() if state in states) or "none"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
