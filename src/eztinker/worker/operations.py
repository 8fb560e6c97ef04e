"""Execution of commands on the engine's training runs, and the events that report their results."""

from __future__ import annotations

from pathlib import Path

from eztinker.checkpoints.checkpoint_files import read_manifest, remove_checkpoint
from eztinker.engine.prefill import Prompt
from eztinker.engine.sample_job import SampleJob
from eztinker.engine.scheduler import Job
from eztinker.engine.trainer import Pass, TrainingState
from eztinker.engine.training_queue import TrainingJob
from eztinker.errors import AlreadyExists, NotFound
from eztinker.model.lora import Adapter
from eztinker.protocol.frames import (
    CheckpointDone,
    Created,
    CreateModel,
    Event,
    ForwardBackward,
    ForwardBackwardDone,
    LoadModel,
    OptimStep,
    OptimStepDone,
    Sample,
    SampleDone,
    SaveCheckpoint,
    TrainingCommand,
    Unloaded,
    UnloadModel,
)
from eztinker.types import (
    AdapterState,
    CheckpointKind,
    CheckpointWritten,
    ForwardBackwardResult,
    LoraSpec,
    OptimStepResult,
    SampleResult,
)
from eztinker.worker.base_models import BaseModels
from eztinker.worker.storage import SamplerAdapters, load_run, save_run


class Operations:
    """The training runs of this engine, and what commands do to them."""

    def __init__(self, base_models: BaseModels) -> None:
        self._base_models = base_models
        self._runs: dict[str, TrainingState] = {}
        self._sampler_adapters = SamplerAdapters()

    def training(self, command: TrainingCommand) -> TrainingJob:
        """The command as work for the scheduler. Nothing happens before its turn comes."""
        work = {
            CreateModel: self._create,
            LoadModel: self._load,
            ForwardBackward: self._pass,
            OptimStep: self._optim_step,
            SaveCheckpoint: self._save,
            UnloadModel: self._unload,
        }[type(command)]
        data = command.data if isinstance(command, ForwardBackward) else []
        return TrainingJob(
            command.op_id,
            command.model_id,
            lambda: work(command),
            is_step=isinstance(command, OptimStep),
            share=command.share,
            longest=max((len(datum.tokens) for datum in data), default=0),
        )

    def start_sampling(self, command: Sample) -> None:
        """Hand a request to its base model's sampler.

        Raises:
            EZTinkerError: its base model or adapter cannot be had.
        """
        model = self._base_models.get(command.base_model)
        adapter = None
        if command.directory is not None:
            adapter = self._sampler_adapters.get(command.directory, lambda name: self._base_models.get(name).decoder)
        prompt = Prompt(command.request, adapter, command.directory)
        model.sampler.submit(SampleJob(command.op_id, prompt, command.share, is_streamed=command.is_streamed))

    def _create(self, command: CreateModel) -> AdapterState:
        if command.model_id in self._runs:
            raise AlreadyExists(f"The training run {command.model_id} exists already")
        return self._state(self._new_run(command.model_id, command.base_model, command.lora))

    def _load(self, command: LoadModel) -> AdapterState:
        directory = Path(command.directory)
        manifest = read_manifest(directory)
        is_new = command.model_id not in self._runs
        if is_new:
            self._new_run(command.model_id, manifest.base_model, manifest.lora)
        run = self._runs[command.model_id]
        try:
            load_run(run, directory, manifest, with_optimizer=command.with_optimizer)
        except BaseException:
            if is_new:
                del self._runs[command.model_id]
            raise
        return self._state(run)

    def _pass(self, command: ForwardBackward) -> Pass:
        config = {name: float(value) for name, value in command.loss_fn_config.items()}
        return Pass(self._run(command.model_id), command.data, command.loss_fn, config, command.forward_only)

    def _optim_step(self, command: OptimStep) -> OptimStepResult:
        return self._run(command.model_id).optim_step(command.adam)

    def _save(self, command: SaveCheckpoint) -> CheckpointWritten:
        run = self._run(command.model_id)
        remove_checkpoint(Path(command.directory))  # of an engine that died before it could tell
        frozen = run.adapter.for_sampling(run.decoder.dtype) if command.kind is CheckpointKind.SAMPLER else None
        manifest = save_run(run, command)
        if frozen is not None:
            self._sampler_adapters.put(command.directory, frozen)
        return CheckpointWritten(size_bytes=manifest.size_bytes, step=manifest.step)

    def _unload(self, command: UnloadModel) -> None:
        self._runs.pop(command.model_id, None)

    def _run(self, model_id: str) -> TrainingState:
        if model_id not in self._runs:
            raise NotFound(f"No training run {model_id} is loaded")
        return self._runs[model_id]

    def _new_run(self, model_id: str, base_model: str, lora: LoraSpec) -> TrainingState:
        decoder = self._base_models.get(base_model).decoder
        self._runs[model_id] = TrainingState(base_model, decoder, Adapter.new(decoder.config, lora, decoder.device))
        return self._runs[model_id]

    def _state(self, run: TrainingState) -> AdapterState:
        return AdapterState(lora=run.adapter.lora, base_model=run.base_model, step=run.optimizer.step)


def success(job: Job) -> Event:
    """The event that reports an operation's result."""
    op_id, value = job.op_id, job.value
    match value:
        case AdapterState():
            return Created(op_id=op_id, state=value)
        case ForwardBackwardResult():
            return ForwardBackwardDone(op_id=op_id, result=value)
        case OptimStepResult():
            return OptimStepDone(op_id=op_id, result=value)
        case CheckpointWritten():
            return CheckpointDone(op_id=op_id, result=value)
        case SampleResult():
            return SampleDone(op_id=op_id, result=value)
        case None:
            return Unloaded(op_id=op_id)
        case _:
            raise AssertionError(f"no event reports {type(value).__name__}")
