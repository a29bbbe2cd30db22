"""One model in memory into which candidates are written, under the checkpoint's names.

transformers renames and fuses weights on loading (a Mixtral's experts become one 3-D parameter), so `bind` finds for
every checkpoint name the *view* of live memory that holds it. Writing a candidate is then one copy per tensor, and
tensors whose coefficients did not change since the last candidate are left as they are.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergeopt.checkpoint.jsonfile import with_special_floats
from mergeopt.errors import InputError, MergeoptError
from mergeopt.merge.compute import compute, depends, whole
from mergeopt.merge.layout import Input
from mergeopt.merge.plan import Job, Plan
from mergeopt.merge.refinement import Refinement
from mergeopt.merge.sources import TensorSource
from mergeopt.methods import METHODS
from mergeopt.methods.kernels import one_thread_each


class NotFiniteError(MergeoptError):
    """A candidate's weights hold NaN or infinity."""


class LiveModel:
    """A resident transformers model that becomes one candidate after another."""

    def __init__(self, model: Any, views: Mapping[str, Tensor], source: TensorSource) -> None:
        self.model = model
        self.source = source
        self._views = views
        self._written: dict[str, tuple[Any, ...]] = {}
        self._remembered: dict[str, tuple[Any, Any]] = {}
        self._memos: dict[tuple[tuple[Input, ...], Input | None, str], dict[str, Any]] = {}

    def write(self, plan: Plan, refinement: Refinement | None = None) -> None:
        """Makes the model the plan's output, refined where the refinement says so.

        Raises:
            NotFiniteError: some tensor came out with NaN or infinity; the model must be written again before use.
        """
        method = METHODS[plan.method]
        written: dict[str, tuple[Any, ...]] = {}
        finite: list[Tensor] = []
        with torch.no_grad(), one_thread_each():
            for job in plan.jobs:
                refined = refinement.fingerprint(job) if refinement is not None else ()
                state = (plan.method, plan.seed if method.schema.random else 0, job, refined)
                if self._written.get(job.tensor) == state:
                    continue
                self._written.pop(job.tensor, None)
                self._fill(job, plan, self.whole(job, plan), refinement)
                written[job.tensor] = state
                finite.append(self._is_finite(job.tensor))
        found = dict(zip(written, _asked(finite), strict=True))
        self._written |= {name: state for name, state in written.items() if found[name]}
        if broken := [name for name in written if not found[name]]:
            raise NotFiniteError(f"tensor {broken[0]!r} came out with NaN or infinity")

    def view(self, tensor: str) -> Tensor:
        """The live memory that holds an output tensor."""
        return self._views[tensor]

    def memo(self, job: Job) -> dict[str, Any]:
        """What is known of the job's inputs, whatever its coefficients: for `compute.whole`."""
        return self._memos.setdefault((job.inputs, job.base, job.dtype), {})

    def whole(self, job: Job, plan: Plan) -> Any:
        """Whole-tensor numbers, kept from the last candidate where nothing they depend on has changed."""
        method = METHODS[plan.method]
        if method.measure is None or job.verbatim:
            return None
        key = (plan.method, plan.seed, job.inputs, job.base, job.dtype, depends(job, method))
        kept = self._remembered.get(job.tensor)
        if kept is None or kept[0] != key:
            kept = (key, whole(job, method, self.source, plan.seed, self.memo(job)))
            self._remembered[job.tensor] = kept
        return kept[1]

    def _fill(self, job: Job, plan: Plan, remembered: Any, refinement: Refinement | None) -> None:
        view, start = self._views[job.tensor], 0
        flat = view.view(-1) if view.is_contiguous() else view.new_empty(view.numel())
        method, memo = METHODS[plan.method], self.memo(job)
        for part in compute(job, method, self.source, plan.seed, remembered, refinement, memo):
            flat[start : start + part.numel()] = part  # at once: it may be the source's own buffer
            start += part.numel()
        if not view.is_contiguous():
            view.copy_(flat.view(view.shape))

    def _is_finite(self, tensor: str) -> Tensor:
        """0-D, on the model's device."""
        view = self._views[tensor]
        return torch.isfinite(view).all() if view.is_floating_point() else torch.ones((), dtype=torch.bool)


def _asked(flags: Sequence[Tensor]) -> list[bool]:
    """What 0-D tensors say; those of a GPU all at once, as asking one means waiting for it."""
    place = next((flag.device for flag in flags if flag.device.type != "cpu"), torch.device("cpu"))
    found: list[bool] = torch.stack([flag.to(place) for flag in flags]).tolist() if flags else []
    return found


def skeleton(folder: Path, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A causal language model with uninitialised weights, ready to be written into.

    Args:
        folder: The donor's, for its generation settings.
        config: The output's config.json.
        device: Where parameters live.
        dtype: Of the floating-point parameters.

    Raises:
        InputError: transformers does not know the architecture, or it is no causal language model.
    """
    import transformers
    from accelerate import init_empty_weights

    fields = with_special_floats(dict(config))
    kind = fields.pop("model_type", "")
    where = str(folder / "config.json")
    try:
        parsed = transformers.AutoConfig.for_model(kind, **fields)
        _check_causal(config, parsed, where)
        with init_empty_weights(include_buffers=False):
            model = transformers.AutoModelForCausalLM.from_config(parsed, dtype=dtype)
    except (ValueError, KeyError) as error:
        problem = f"transformers cannot build this model: {str(error).splitlines()[0]}"
        raise InputError(problem, where=where) from None
    wide = [re.compile(re.escape(key).replace(r"\*", ".*")) for key in model._get_dtype_plan(dtype)]
    for place, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            kind = torch.float32 if _is_any(wide, f"{place}.{name}") else parameter.dtype
            empty = torch.empty(parameter.shape, dtype=kind, device=device)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            kind = torch.float32 if _is_any(wide, f"{place}.{name}") else buffer.dtype
            module._buffers[name] = buffer.to(device, kind)
    model.tie_weights()
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model.eval()


def _check_causal(config: Mapping[str, Any], parsed: Any, where: str) -> None:
    """Raises InputError for a class of transformers that AutoModelForCausalLM would not build from this config."""
    import transformers

    causal = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(parsed), None)
    named = next(iter(config.get("architectures") or ()), None)
    other = named is not None and hasattr(transformers, named) and named != getattr(causal, "__name__", None)
    if causal is None or other:
        raise InputError(
            f"this is {named or type(parsed).__name__}, and candidates are scored as causal language models",
            where=where,
            remedy="`mergeopt merge` merges models of any kind; search needs a language model that generates",
        )


def _is_any(patterns: Iterable[re.Pattern[str]], name: str) -> bool:
    """Does transformers keep it in float32, whatever the model's dtype?"""
    return any(pattern.search(name) for pattern in patterns)


def bind(model: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """For each checkpoint name, the view of the model's memory that holds this tensor.

    Raises:
        InputError: a name that the model has no place for, or a parameter that no name fills.
    """
    live: dict[str, Tensor] = {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}
    views = _checkpoint_views(model, live)
    prefix = f"{model.base_model_prefix}."
    bound: dict[str, Tensor] = {}
    for name in names:
        for spelling in (name, prefix + name, name.removeprefix(prefix)):
            if spelling in views:
                bound[name] = views[spelling]
                break
        else:
            raise InputError(
                f"the model has no place for tensor {name!r}", remedy="is config.json that of these weights?"
            )
    _check_covered(live, bound)
    return bound


def _checkpoint_views(model: Any, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of live memory by checkpoint name, through transformers' own loading rules run backwards."""
    from transformers.core_model_loading import revert_weight_conversion

    reverted: dict[str, Tensor] = revert_weight_conversion(model, dict(live))
    storages = {tensor.untyped_storage().data_ptr() for tensor in live.values()}
    views = {name: t for name, t in reverted.items() if t.untyped_storage().data_ptr() in storages}
    copied = set(reverted) - set(views)
    if copied:
        views |= _traced_views(model, {k: t for k, t in live.items() if k not in reverted}, copied)
    return views


def _traced_views(model: Any, fused: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Views for weights that the reverse rules copy: each element carries its own index through them."""
    from transformers.core_model_loading import revert_weight_conversion

    views = {}
    for group in _by_layer(fused):
        offsets, probes, total = {}, {}, 0
        for key in group:
            probes[key] = torch.arange(total, total + fused[key].numel()).view(fused[key].shape)
            offsets[key], total = total, total + fused[key].numel()
        for name, index in revert_weight_conversion(model, probes).items():
            if name not in names:
                continue
            first = int(index.view(-1)[0])
            key = max((k for k in group if offsets[k] <= first), key=lambda k: offsets[k])
            stride = [int(index.select(d, 1).reshape(-1)[0]) - first if n > 1 else 1 for d, n in enumerate(index.shape)]
            place = first - offsets[key]
            if not torch.equal(torch.as_strided(probes[key], index.shape, stride, place), index):
                raise MergeoptError(f"tensor {name!r} is stored in an order that cannot be written in place")
            views[name] = torch.as_strided(fused[key], index.shape, stride, fused[key].storage_offset() + place)
    return views


def _by_layer(fused: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """Names grouped by the numbers in them, so that tracing holds one layer's indices at a time."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in fused:
        groups.setdefault(tuple(part for part in name.split(".") if part.isdigit())[:1], []).append(name)
    return groups.values()


def _check_covered(live: Mapping[str, Tensor], bound: Mapping[str, Tensor]) -> None:
    filled = {tensor.untyped_storage().data_ptr() for tensor in bound.values()}
    missing = [name for name, tensor in live.items() if tensor.untyped_storage().data_ptr() not in filled]
    if missing:
        raise InputError(
            f"no source has the model's tensor {missing[0]!r}", remedy="is config.json that of these weights?"
        )
