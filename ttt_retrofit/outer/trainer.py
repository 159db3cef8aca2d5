"""`TTTTrainer`: transformers' Trainer, whose gradient is that of the outer loop.

It overrides the data (`data.py` cuts documents), the gradient of a batch (`gradients.py`), the optimizer's groups,
evaluation (`positions.py`), what is logged, and where a checkpoint is written (`resuming.py`). Schedules, callbacks and
reports are Trainer's.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import DistributedType
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from ..config import TTTConfig
from ..errors import ConfigError, InputError
from ..inner.layer import rates
from ..inner.learning import displacements
from ..model.auto import AutoModelForCausalLM
from ..model.modeling import TTTMixin
from ..util.shards import check_whole
from .config import SHARDED, TTTTrainingConfig
from .data import SequenceDataset, SequenceStream, collate, sequences
from .gradients import BatchGradients, outer_gradients
from .parameters import OuterParameters, choose
from .positions import by_position
from .resuming import ResumableTrainer
from .sharding import check_shardable, shard, whole_state

logger = logging.get_logger(__name__)


class TTTTrainer(ResumableTrainer):
    """Meta-learns where a converted model's fast weights start and how they step.

    Parameters
    ----------
    model : a converted model, one with PEFT's LoRA on it, or the name or directory of a converted checkpoint or a base.
    args : the outer loop's settings.
    train_dataset, eval_dataset : documents, as `data.sequences` takes them: lists of texts or token ids, or data sets
        with a column "text" or "input_ids", streaming ones too. `eval_dataset` may be a dictionary of several.
    processing_class : the tokenizer, for texts. Default: the tokenizer of the model's name, where that is given.
    ttt_config : the conversion of a base that is given by name.
    **kwargs : as for `transformers.Trainer`: callbacks, optimizers, ...

    Raises
    ------
    ConfigError
        For a model that is not converted, or settings that do not fit the model.
    UnsupportedModelError
        For a model that another trainer has split over processes.
    InputError
        For documents that cannot be read, or that are all too short.
    """

    args: TTTTrainingConfig
    model: Any

    def __init__(
        self,
        model: Any,
        args: TTTTrainingConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        ttt_config: TTTConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, TTTTrainingConfig):
            raise ConfigError(f"args is a {type(args).__name__}, expected a TTTTrainingConfig.")
        if isinstance(model, (str, os.PathLike)):
            processing_class = processing_class or AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            # What is trained is trained in full, whatever it was saved in; `bf16=True` computes in less.
            model = AutoModelForCausalLM.from_pretrained(model, ttt_config=ttt_config, dtype=torch.float32)
        self.ttt_model = _converted(model)
        check_whole(self.ttt_model)
        args.check_fits(self.ttt_model.ttt, self.ttt_model.longest)
        if args.gradients in ("exact", "truncated") and vars(self.ttt_model).get("is_loaded_in_8bit"):
            raise ConfigError(
                f"gradients={args.gradients!r}: an 8-bit base rounds what passes through it, so its gradient has no "
                "derivative. Load it in 4 bits or in full, or use gradients='first_order'."
            )
        for name in ("compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics"):
            if kwargs.get(name) is not None:
                raise ConfigError(
                    f"{name} is given, but would never be called: the loss is the inner loop's, and evaluation "
                    "measures it by position. Leave it out."
                )
        self._metrics: dict[str, list[float]] = defaultdict(list)  # by row

        self._workers, self._processes = args.dataloader_num_workers, args.world_size
        self._sequences = partial(
            sequences, length=args.sequence_length, chunk=self.ttt_model.ttt.chunk_size,
            vocabulary=self.ttt_model.vocabulary_size, tokenizer=processing_class,
        )  # fmt: skip
        if isinstance(train_dataset, dict):
            raise InputError(f"train_dataset is a dictionary of {sorted(train_dataset)}; expected one of its values.")
        args._n_gpu = min(args.n_gpu, 1)  # one process, one model: torch's DataParallel would split batches over copies
        with _trainable(self.ttt_model):
            super().__init__(
                model=model,
                args=args,
                data_collator=collate,
                train_dataset=self._split(train_dataset, "train_dataset"),
                eval_dataset=self._split(eval_dataset, "eval_dataset"),
                processing_class=processing_class,
                **kwargs,
            )
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise ConfigError(SHARDED.format(self.accelerator.distributed_type.value))
        if args.shard:
            check_shardable(self.ttt_model, args.sequence_length, self.accelerator.num_processes)
        # Last: it freezes what is not trained, and where an error is raised nothing has changed.
        self.outer: OuterParameters = choose(self.ttt_model, args.outer_parameters)
        _warn_of_narrow(self.outer)
        if args.shard:
            shard(self.ttt_model, self.outer, self.accelerator.device)
            # Trainer's word for a model that needs no DistributedDataParallel around it.
            self.is_distributed_loading_by_transformers = True

    def _split(self, data: Any, name: str) -> Any:
        """The sequences of documents; of each, in a dictionary."""
        if data is None or isinstance(data, (SequenceDataset, SequenceStream)):
            return data
        if isinstance(data, dict):
            return {key: self._split(value, f"{name}[{key!r}]") for key, value in data.items()}
        if isinstance(data, Iterator) and name != "train_dataset":
            raise InputError(
                f"{name} is a {type(data).__name__}, which can be read once; expected a list or a data set."
            )
        rows = self._sequences(data, name=name)
        if isinstance(rows, SequenceStream) and self._workers:
            raise ConfigError(
                f"dataloader_num_workers={self._workers}: {name} is streamed, and every worker would read all of it. "
                "Use 0 workers, or a data set with a length."
            )
        if isinstance(rows, SequenceStream) and self._processes > 1 and name != "train_dataset":
            return SequenceDataset(
                rows
            )  # a stream is shared out evenly, the last processes getting some sequences a second time
        return rows

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Trainer's, which cuts documents that are given here, and gives no process a sequence twice."""
        if not isinstance(eval_dataset, str):  # the name of one of several
            eval_dataset = self._split(eval_dataset, "eval_dataset")
        even, self.accelerator.even_batches = self.accelerator.even_batches, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.accelerator.even_batches = even

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return super().get_test_dataloader(self._split(test_dataset, "test_dataset"))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's, with the log inner rates in a group of their own."""
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            rates = [site.log_lr for site in self.outer.rates.values()]
            if rates:
                names = {id(rate) for rate in rates}
                for group in optimizer.param_groups:
                    group["params"] = [p for p in group["params"] if id(p) not in names]
                lr = self.args.log_lr_learning_rate
                optimizer.add_param_group({"params": rates, "lr": lr, "weight_decay": 0.0})
        assert self.optimizer is not None
        return self.optimizer

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Trainer's, with the number of chunks in the batches of one step, those of all processes.

        All chunks have as many targets, so a mean over chunks is one over target tokens.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self._chunks(batches, device)

    def _chunks(self, batches: list[dict[str, Any]], device: torch.device) -> int:
        size = self.ttt_model.ttt.chunk_size
        chunks = [(batch["attention_mask"].sum(1) // size).sum().item() for batch in batches]
        return int(self.accelerator.reduce(torch.tensor(sum(chunks), device=device), "sum"))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Add a batch's outer gradient to `.grad`; sum it over processes when the optimizer is about to step.

        Gradients are put in place by hand: the hooks of DistributedDataParallel know of one backward pass.

        Parameters
        ----------
        num_items_in_batch : the chunks of all batches of this step, over all processes, as `get_batch_samples` counts
            them. By default those of this batch alone.

        Returns
        -------
        This batch's part of the mean loss of the step, times the number of processes, over which Trainer averages it.
        """
        inputs = self._prepare_inputs(inputs)
        weight = 1 / int(num_items_in_batch or self._chunks([inputs], self.args.device))
        self.ttt_model.eval()  # dropout would differ between the readings of a chunk
        with self.accelerator.autocast():
            batch = outer_gradients(
                self.ttt_model,
                self.outer,
                inputs["input_ids"],
                inputs["attention_mask"],
                self.args.gradients,
                self.args.truncate_chunks,
                bool(self.args.gradient_checkpointing),
                weight,
                self._most(int(inputs["attention_mask"].sum(1).max()) // self.ttt_model.ttt.chunk_size),
            )
        self._accumulate(batch)
        if self.accelerator.sync_gradients:
            self._sum_over_processes()
        self._note(batch)
        share = self.accelerator.num_processes * weight
        return share * batch.losses.nansum().to(self.args.device)  # caches keep losses on the CPU

    def _most(self, chunks: int) -> int:
        """The largest number of chunks in a row, of all processes that share the weights."""
        if not self.args.shard:
            return chunks
        return int(self.accelerator.gather(torch.tensor([chunks], device=self.args.device)).max())

    def _accumulate(self, batch: BatchGradients) -> None:
        if not all(bool(gradient.isfinite().all()) for gradient in batch.gradients.values()):
            logger.warning_once("A batch gave an outer gradient that is not finite; it was left out. Reported once.")
            return
        for parameter, gradient in batch.gradients.items():
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _sum_over_processes(self) -> None:
        if self.accelerator.num_processes > 1:
            for parameter in self.outer.all:  # the same order in every process
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(gradient, "sum")

    def _note(self, batch: BatchGradients) -> None:
        losses = batch.losses  # (B, chunks)
        last = (~losses.isnan()).sum(1) - 1  # (B,)
        self._metrics["inner_loss_first"] += losses[:, 0].tolist()
        self._metrics["inner_loss_last"] += losses.gather(1, last[:, None].to(losses.device))[:, 0].tolist()
        if self.args.gradients == "none":
            return
        moved = displacements(self.ttt_model, batch.cache.fast)
        self._metrics["fast_weight_norm"] += len(losses) * [moved.mean().item()]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's, with the inner loop's metrics since the last time beside the training loss."""
        if "loss" in logs:
            for name, values in self._metrics.items():
                noted = torch.tensor([sum(values), len(values)], dtype=torch.float64, device=self.args.device)
                total, rows = self.accelerator.reduce(noted, "sum").tolist()
                logs[name] = total / rows
            self._metrics.clear()
            found = rates(self.ttt_model.sites, self.ttt_model.ttt).detach()
            logs |= {"inner_lr_lowest": found.min().item(), "inner_lr_highest": found.max().item()}
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Trainer's; a model that is sharded is gathered first, by all processes."""
        if self.args.shard:
            state_dict = whole_state(self.model, keep=self.args.should_save)
            if not self.args.should_save:
                return
        super()._save(output_dir, state_dict)

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Losses by quarter of the sequences, with updates and without: `eval_loss`, `eval_loss_q1` to `eval_loss_q4`,
        `eval_loss_without_updates` and so on, and `eval_gain`, the gain of updates.
        """
        self.ttt_model.eval()

        def measured(learn: bool) -> tuple[dict[str, float], int]:
            batches = (self._prepare_inputs(batch) for batch in dataloader)
            with self.accelerator.autocast():
                reduce = partial(self.accelerator.reduce, reduction="sum")
                return by_position(self.ttt_model, batches, learn, reduce, self._most)

        named, rows = measured(learn=True)
        metrics = dict(named)
        if self.args.evaluate_without_updates:
            without, _ = measured(learn=False)
            metrics |= {f"{name}_without_updates": loss for name, loss in without.items()}
            metrics["gain"] = without["loss"] - named["loss"]
        prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=prefixed, num_samples=rows)  # type: ignore[arg-type]


def _converted(model: Any) -> Any:
    """The converted model, on its own or inside PEFT's."""
    inside = (
        [module for module in model.modules() if isinstance(module, TTTMixin)] if isinstance(model, nn.Module) else []
    )
    if not inside:
        raise ConfigError(
            f"model is a {type(model).__name__}, expected a converted one. Convert it first: "
            "wrap(model, TTTConfig(...)), or give its name and ttt_config=."
        )
    return inside[0]


def _warn_of_narrow(outer: OuterParameters) -> None:
    narrow = {p.dtype for p in outer.all} & {torch.bfloat16, torch.float16}
    if narrow:
        logger.warning(
            "Some trained parameters are %s, in which small outer steps are lost. Load the model with "
            "dtype=torch.float32 and train with bf16=True instead.",
            ", ".join(map(str, narrow)),
        )


@contextmanager
def _trainable(model: Any) -> Iterator[None]:
    """Trainer refuses a quantized base without adapters; here the fast weights are what is trained beside it."""
    quantized = vars(model).get("is_quantized", False)
    if quantized:
        model.is_quantized = False
    try:
        yield
    finally:
        if quantized:
            model.is_quantized = True
