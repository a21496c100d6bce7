"""Optuna: studies, trials and their values, with its own storage class over SQLAlchemy."""

import json
import math
import sys

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

optuna.logging.set_verbosity(optuna.logging.ERROR)


def rows(storage: RDBStorage) -> None:
    """Run two studies, one with two goals, and write trials of each state."""
    sampler = optuna.samplers.TPESampler(seed=7)
    study = optuna.create_study(storage=storage, study_name="Größe 🦆", sampler=sampler)
    study.set_user_attr("owner", {"name": "Zoë", "tags": ["a", None, 1.5]})

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1e3, 1e3)
        y = trial.suggest_int("y", 1, 1 << 40, log=True)
        kind = trial.suggest_categorical("kind", ["it's", None, True, 0.1])
        for step in range(3):
            trial.report([x / (step + 3), math.inf, math.nan][step], step)
        trial.set_user_attr("note", f"line\n{kind}\t\\N")
        if trial.number % 7 == 3:
            raise optuna.TrialPruned
        if trial.number % 7 == 5:
            return -math.inf
        return x / 3 + math.log(y)

    study.optimize(objective, n_trials=60)
    two = optuna.create_study(storage=storage, study_name="two", directions=["minimize", "maximize"])
    two.optimize(lambda trial: (trial.suggest_float("a", 1e-300, 1e-3, log=True), 1e308), n_trials=15)
    two.add_trial(create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"a": 1e-9}}))
    two.enqueue_trial({"a": 2.5e-7})
    two.add_trial(create_trial(state=TrialState.FAIL))


def change(storage: RDBStorage) -> None:
    """Go on with a study, add one, and delete the other."""
    study = optuna.load_study(storage=storage, study_name="Größe 🦆")
    study.add_trial(
        create_trial(
            values=[0.1 + 0.2],
            params={"x": 1 / 3, "y": 5, "kind": None},
            distributions={
                "x": FloatDistribution(-1e3, 1e3),
                "y": IntDistribution(1, 1 << 40, log=True),
                "kind": CategoricalDistribution(["it's", None, True, 0.1]),
            },
            intermediate_values={0: math.nan, 1: -math.inf, 2: 5e-324},
        )
    )
    study.set_user_attr("owner", {"name": "Ann"})
    optuna.delete_study(storage=storage, study_name="two")
    optuna.create_study(storage=storage, study_name="after the move", direction="maximize")


def read(storage: RDBStorage) -> object:
    """Return everything that Optuna knows."""
    return [
        [
            summary.study_name,
            [direction.name for direction in summary.directions],
            summary.user_attrs,
            [
                [trial.number, trial.state.name, repr(trial.values), trial.params, repr(trial.intermediate_values),
                 trial.user_attrs, trial.system_attrs, str(trial.datetime_start), str(trial.datetime_complete)]
                for trial in optuna.load_study(storage=storage, study_name=summary.study_name).trials
            ],
        ]
        for summary in sorted(optuna.get_all_study_summaries(storage), key=lambda summary: summary.study_name)
    ]  # fmt: skip


step, url = sys.argv[1:]
opened = RDBStorage(url.replace("postgresql:", "postgresql+psycopg2:"))  # this makes the tables
if step != "schema":
    print(json.dumps({"rows": rows, "change": change, "read": read}[step](opened)))
