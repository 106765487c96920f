"""One job on a worker: where it stands, what it wants to run next, and what its results mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.errors import JobError
from jobs.intervals import interval, save_interval
from jobs.records import EvalReport, StepReport
from jobs.spec import JobSpec
from workers.adapter import Adapter
from workers.batcher import Kind
from workers.cursor import Cursor, steps_per_epoch, total_steps
from workers.dataset import JobData, Microbatch, chunks
from workers.memory import Demand
from workers.optimizer import JobOptimizer
from workers.routing import AdapterFactors, DropoutDraw, Segment, TokenShare
from workers.snapshot import Accumulation, Standing


@dataclass(frozen=True, kw_only=True)
class Work:
    """One micro-batch that a job wants to run next."""

    kind: Kind
    batch: Microbatch
    micro_batch: int
    """Number within the optimizer batch, or within the evaluation pass."""


@dataclass
class _OptimizerBatch:
    """The optimizer batch in progress."""

    micro_batches: list[Microbatch]
    num_labels: int
    """Of all micro-batches, counted before the first backward: the loss is a mean over all of them."""
    done: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0


@dataclass
class _EvalPass:
    """The evaluation pass in progress."""

    micro_batches: list[Microbatch]
    done: int = 0
    loss_sum: float = 0.0
    exact: int = 0
    rows: int = 0
    labels: int = 0
    seconds: float = 0.0


@dataclass
class JobRun:
    """State of one admitted job. Its worker calls `next_work`, runs it, and hands the result back."""

    job_id: str
    spec: JobSpec
    data: JobData
    adapter: Adapter
    demand: Demand
    step: int = 0
    """Optimizer steps taken or skipped so far."""
    nonfinite_in_a_row: int = 0
    first_eval: EvalReport | None = None
    last_eval: EvalReport | None = None
    best_metric: float | None = None
    """Lowest loss of all evaluations, and the step of the first one that had it."""
    best_step: int | None = None
    last_step: StepReport | None = None
    tokens: int = 0
    seconds: float = 0.0
    _batch: _OptimizerBatch | None = None
    _drawn_at: tuple[int, int] = (0, 0)
    """Epoch and position of the cursor before `_batch` was drawn."""
    _eval: _EvalPass | None = None
    _evaluated_at: int = -1
    optimizer: JobOptimizer = field(init=False)
    cursor: Cursor = field(init=False)
    total_steps: int = field(init=False)

    def __post_init__(self) -> None:
        """Count the steps, build the optimizer, start with the evaluation before training."""
        training = self.spec.training
        self.total_steps = total_steps(training, len(self.data.train))
        self.optimizer = JobOptimizer(self.adapter, training, self.total_steps)
        self.cursor = Cursor(num_rows=len(self.data.train), training=training)

    @property
    def epoch(self) -> float:
        """Passes over the training rows so far, as a fraction."""
        return self.step / steps_per_epoch(self.spec.training, len(self.data.train))

    @property
    def save_interval(self) -> int | None:
        """Steps between two checkpoints; `None` where they are taken at interruptions alone."""
        per_epoch = steps_per_epoch(self.spec.training, len(self.data.train))
        return save_interval(self.spec.training, total_steps=self.total_steps, steps_per_epoch=per_epoch)

    @property
    def is_evaluating(self) -> bool:
        """Whether an evaluation pass is under way."""
        return self._eval is not None

    @property
    def is_between_steps(self) -> bool:
        """Whether nothing of the next optimizer batch has run."""
        return self._batch is None or self._batch.done == 0

    @property
    def evaluated_at(self) -> int:
        """Step of the last finished evaluation; -1 before the first."""
        return self._evaluated_at

    def next_work(self) -> Work | None:
        """The micro-batch to run next, or `None` when the job has done everything. Asking twice changes nothing."""
        if self._eval is None and self._evaluation_due():
            assert self.data.evaluation is not None
            self._eval = _EvalPass(chunks(self.data.evaluation, self.spec.training.per_device_eval_batch_size))
        if self._eval is not None:
            return Work(
                kind=Kind.EVALUATE, batch=self._eval.micro_batches[self._eval.done], micro_batch=self._eval.done
            )
        if self.step >= self.total_steps:
            return None
        if self._batch is None:
            self._batch = self._draw()
        return Work(kind=Kind.TRAIN, batch=self._batch.micro_batches[self._batch.done], micro_batch=self._batch.done)

    def segment(
        self, work: Work, start: int, *, share: TokenShare | None = None, factors: AdapterFactors | None = None
    ) -> Segment:
        """Where the work's tokens stand in a pack, and the path of adapters they take.

        Args:
            work: The micro-batch.
            start: Its first token's position in the pack.
            share: Set where the segment holds only some of its rows.
            factors: The job's factors with their gradients elsewhere than in the adapter's own buffer.
        """
        dropout = None
        if work.kind is Kind.TRAIN and self.spec.lora.lora_dropout > 0:
            dropout = DropoutDraw(
                probability=self.spec.lora.lora_dropout,
                seed=self.spec.training.seed,
                step=self.step,
                micro_batch=work.micro_batch,
                share=share,
            )
        tokens = work.batch.num_tokens if share is None else len(share.selected_t)
        path = (self.adapter.factors if factors is None else factors,)
        return Segment(start=start, stop=start + tokens, path=path, dropout=dropout)

    @property
    def loss_denominator(self) -> int:
        """Label tokens of the whole optimizer batch in progress."""
        assert self._batch is not None
        return self._batch.num_labels

    def trained(self, work: Work, *, loss_sum: float, seconds: float) -> StepReport | None:
        """Take in a micro-batch whose backward has run; after the last one of its batch, step.

        Args:
            work: What was run.
            loss_sum: Sum of the losses of its label tokens.
            seconds: Its share of the pack's time.

        Raises:
            JobError: Too many steps in a row were not finite.
        """
        batch = self._batch
        assert batch is not None
        batch.done += 1
        batch.loss_sum += loss_sum
        batch.seconds += seconds
        self.tokens += work.batch.num_tokens
        self.seconds += seconds
        if batch.done < len(batch.micro_batches):
            return None
        loss = batch.loss_sum / batch.num_labels
        update = self.optimizer.step(loss)
        self.step += 1
        self._batch = None
        self.nonfinite_in_a_row = 0 if update.applied else self.nonfinite_in_a_row + 1
        every = interval(self.spec.training.logging_steps, self.total_steps)
        self.last_step = StepReport(
            job_id=self.job_id,
            step=self.step,
            total_steps=self.total_steps,
            epoch=self.epoch,
            loss=loss,
            learning_rate=update.learning_rate,
            grad_norm=update.grad_norm,
            label_tokens=batch.num_labels,
            tokens=sum(one.num_tokens for one in batch.micro_batches),
            seconds=batch.seconds,
            skipped=not update.applied,
            logged=self.step in (1, self.total_steps) or self.step % every == 0,
        )
        return self.last_step

    def check_finite(self) -> None:
        """Give up when the last steps were all skipped, or the job is over and all of its steps were.

        Raises:
            JobError: With reason `nonfinite`.
        """
        most = min(self.spec.training.max_nonfinite_steps, self.total_steps)
        if self.nonfinite_in_a_row >= most:
            raise JobError(
                "nonfinite",
                f"loss or gradient was not finite in {self.nonfinite_in_a_row} steps in a row, the last being step "
                f"{self.step}; lower training.learning_rate, or look at the rows "
                "(training.max_nonfinite_steps says how many are borne)",
            )

    def evaluated(self, work: Work, *, loss_sum: float, exact: Sequence[bool], seconds: float) -> EvalReport | None:
        """Take in one micro-batch of an evaluation; after the last one, report the pass."""
        current = self._eval
        assert current is not None
        current.done += 1
        current.loss_sum += loss_sum
        current.exact += sum(exact)
        current.rows += len(exact)
        current.labels += work.batch.num_labels
        current.seconds += seconds
        self.seconds += seconds
        if current.done < len(current.micro_batches):
            return None
        self._eval = None
        self._evaluated_at = self.step
        self.last_eval = EvalReport(
            job_id=self.job_id,
            step=self.step,
            epoch=self.epoch,
            loss=current.loss_sum / current.labels,
            exact_match=current.exact / current.rows,
            rows=current.rows,
            label_tokens=current.labels,
            seconds=current.seconds,
        )
        self.first_eval = self.first_eval or self.last_eval
        loss = self.last_eval.loss
        if math.isfinite(loss) and (self.best_metric is None or loss < self.best_metric):
            self.best_metric, self.best_step = loss, self.step
        return self.last_eval

    def rewind(self) -> None:
        """Start the optimizer batch in progress over, after a pack broke half way through its backward."""
        if self._batch is not None:
            self.tokens -= sum(batch.num_tokens for batch in self._batch.micro_batches[: self._batch.done])
            self._batch.done, self._batch.loss_sum = 0, 0.0
        self.adapter.zero_grad()

    @property
    def standing(self) -> Standing:
        """Where the job stands between two of its micro-batches, for a checkpoint.

        A batch that was drawn and of which nothing has run is drawn again on resume; so is an evaluation under way.
        """
        batch, optimizer = self._batch, self.optimizer.state
        half_done = batch is not None and batch.done > 0
        epoch, position = self._drawn_at if batch is not None else (self.cursor.epoch, self.cursor.position)
        return Standing(
            step=self.step,
            total_steps=self.total_steps,
            cursor_epoch=epoch,
            cursor_position=position,
            optimizer_steps=optimizer.steps,
            learning_rates=optimizer.learning_rates,
            schedule=optimizer.schedule,
            accumulation=Accumulation(micro_batches_done=batch.done, loss_sum=batch.loss_sum, seconds=batch.seconds)
            if batch is not None and half_done
            else None,
            nonfinite_in_a_row=self.nonfinite_in_a_row,
            evaluated_at=self._evaluated_at,
            first_eval=self.first_eval,
            last_eval=self.last_eval,
            best_metric=self.best_metric,
            best_step=self.best_step,
            last_step=self.last_step,
            tokens=self.tokens,
            seconds=self.seconds,
        )

    def stand_at(self, standing: Standing) -> None:
        """Take up where another run of the same job stood. Tensors are not its business: `workers.capture` has them."""
        self.step = standing.step
        self.cursor.epoch, self.cursor.position = standing.cursor_epoch, standing.cursor_position
        self.nonfinite_in_a_row = standing.nonfinite_in_a_row
        self._evaluated_at = standing.evaluated_at
        self.first_eval, self.last_eval = standing.first_eval, standing.last_eval
        self.best_metric, self.best_step = standing.best_metric, standing.best_step
        self.last_step = standing.last_step
        self.tokens, self.seconds = standing.tokens, standing.seconds
        if standing.accumulation is not None:
            done = standing.accumulation
            self._batch = self._draw()
            self._batch.done, self._batch.loss_sum = done.micro_batches_done, done.loss_sum
            self._batch.seconds = done.seconds

    def _draw(self) -> _OptimizerBatch:
        """The next optimizer batch; the cursor moves past it."""
        self._drawn_at = (self.cursor.epoch, self.cursor.position)
        rows = self.data.train
        micro_batches = [
            Microbatch(rows=tuple(rows[position] for position in positions)) for positions in self.cursor.next_batch()
        ]
        return _OptimizerBatch(micro_batches, sum(batch.num_labels for batch in micro_batches))

    def _evaluation_due(self) -> bool:
        """Before the first step, at the steps that the spec names, and after the last."""
        if self.data.evaluation is None or self._evaluated_at == self.step or self._batch is not None:
            return False
        training = self.spec.training
        if self.step in (0, self.total_steps):
            return True
        if training.eval_strategy == "steps":
            return self.step % interval(training.eval_steps, self.total_steps) == 0
        if training.eval_strategy == "epoch":
            per_epoch = steps_per_epoch(training, len(self.data.train))
            return math.floor(self.step / per_epoch) * per_epoch == self.step
        return False
