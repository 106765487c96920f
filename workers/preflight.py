"""Everything that can be known of a job before a base is loaded: does it exist, fit together, and how large is it?"""

from __future__ import annotations

from jobs.errors import BaseModelError, DataError, Problem, SpecError
from jobs.spec import JobSpec
from workers.base_checks import base_notes, row_problems
from workers.base_model import DTYPES, Blueprint, load_tokenizer, read_blueprint
from workers.cursor import total_steps
from workers.dataset import load_job_data
from workers.estimate import Estimate, RowCounts
from workers.memory import PROCESS_BYTES, BaseShape, demand, worker_bytes
from workers.passing import hub_advice, is_passing
from workers.targets import resolve


class Preflight:
    """Checks specs one after another; what they share (a base's structure) is read once."""

    def __init__(self) -> None:
        self._blueprints: dict[tuple[str, str | None, str], Blueprint] = {}

    def check(self, spec: JobSpec) -> tuple[Estimate | None, list[Problem]]:
        """Look at base, targets and every row of data, without loading any weights.

        Returns:
            The estimate, or `None` and everything that is wrong, with `Problem.field` set.
        """
        try:
            blueprint = self._blueprint(spec)
        except BaseModelError as error:
            return None, [_problem(error)]
        problems = list(blueprint.problems)
        targets = data = None
        structure = blueprint.structure
        try:
            targets = resolve(spec.lora, structure)
        except SpecError as error:
            problems += error.problems
        try:
            tokenizer = load_tokenizer(spec.model, blueprint.key)
            data = load_job_data(spec, tokenizer)
            problems += row_problems(structure, data, spec, tokenizer)
        except BaseModelError as error:
            problems.append(_problem(error))
        except DataError as error:
            problems.append(_problem(error))
        if targets is None or data is None or problems:
            return None, problems
        itemsize = DTYPES[blueprint.key.dtype].itemsize
        shape = BaseShape.of(structure, itemsize)
        needs = demand(spec, data, targets, max(4, itemsize))
        steps = total_steps(spec.training, len(data.train))
        rows_a_step = min(
            spec.training.per_device_train_batch_size * spec.training.gradient_accumulation_steps, len(data.train)
        )
        return (
            Estimate(
                base=blueprint.key,
                base_shape=shape,
                demand=needs,
                trainable_parameters=sum(target.num_parameters for target in targets.values()),
                train_rows=len(data.train),
                eval_rows=len(data.evaluation) if data.evaluation is not None else 0,
                train_tokens=round(steps * rows_a_step * data.train.num_tokens / len(data.train)),
                total_steps=steps,
                peak_bytes=PROCESS_BYTES + worker_bytes(shape, [needs], token_budget=1),
                notes=(*base_notes(structure, data), *data.warnings),
                rows=RowCounts(
                    read=data.counts.rows,
                    truncated=data.counts.truncated,
                    dropped=data.counts.dropped,
                    skipped=data.counts.skipped,
                    columns_unused=data.counts.columns_unused,
                ),
            ),
            [],
        )

    def _blueprint(self, spec: JobSpec) -> Blueprint:
        key = (spec.model.model_name_or_path, spec.model.revision, spec.model.dtype)
        found = self._blueprints.get(key)
        if found is None:
            found = read_blueprint(spec.model)
            if not found.problems:  # a folder that is put right is looked at again
                self._blueprints[key] = found
        return found


def _problem(error: BaseModelError | DataError) -> Problem:
    if isinstance(error, DataError):
        return Problem(message=str(error), field=error.field, is_passing=is_passing(error))
    advice = hub_advice(error)
    message = f"{error}; {advice}" if advice is not None else str(error)
    return Problem(message=message, field=error.field, value=error.value, is_passing=is_passing(error))
