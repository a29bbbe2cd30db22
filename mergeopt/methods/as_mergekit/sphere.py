"""slerp, nuslerp, multislerp and karcher as mergekit computes them."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from mergeopt.methods.as_mergekit.inputs import Inputs, wide

_PIECE = 1 << 20  # elements that slerp takes at a time


def slerp(inputs: Inputs, *, t: float) -> Tensor:
    """In float32, norms and cosine piece by piece."""
    base = inputs.ground
    ends = [wide(x).reshape(-1) for x in (base, inputs.sources[0])]
    share = torch.tensor(t, dtype=ends[0].dtype)
    pieces = [torch.split(end, _PIECE) for end in ends]
    norms = [torch.stack([piece.norm() for piece in of]).norm() for of in pieces]
    units = [[piece / norm if norm > 1e-8 else piece for piece in of] for of, norm in zip(pieces, norms, strict=True)]
    products = [(a * b).sum() for a, b in zip(*units, strict=True)]
    cosine = sum(products[1:], products[0]).clamp(-1, 1)
    if cosine.abs() > 0.9995:
        merged = (1 - share) * ends[0] + share * ends[1]
    else:
        theta = cosine.acos()
        sine = theta.sin()
        merged = ((1 - share) * theta).sin() / sine * ends[0] + (share * theta).sin() / sine * ends[1]
    return merged.view(base.shape).to(base.dtype)


def nuslerp(inputs: Inputs, *, weight: Sequence[float], nuslerp_flatten: bool, nuslerp_row_wise: bool) -> Tensor:
    """In the inputs' dtype."""
    x, shape = inputs.deltas, inputs.sources[0].shape
    by_column = nuslerp_row_wise and not nuslerp_flatten
    if nuslerp_flatten:
        x = [y.reshape(-1) for y in x]
    elif by_column:
        x = [y.transpose(0, -1) for y in x]
    t = 0.5 if abs(sum(weight)) < 1e-6 else weight[1] / sum(weight)
    unit = [y / y.norm(dim=-1, keepdim=True).clamp_min(1e-7) for y in x]
    cosine = (unit[0] * unit[1]).sum(-1, keepdim=True).clamp(-1, 1)
    theta = cosine.acos()
    merged = (((1 - t) * theta).sin() * x[0] + (t * theta).sin() * x[1]) / theta.sin()
    merged = torch.where(cosine.abs() == 1, (1 - t) * x[0] + t * x[1], merged)
    merged = merged.transpose(0, -1) if by_column else merged.reshape(shape)
    return merged if inputs.base is None else merged + inputs.base


def multislerp(inputs: Inputs, *, weight: Sequence[float], normalize_weights: bool, eps: float) -> Tensor:
    """In the inputs' dtype, with tangents that are but roundings; directions that cancel are averaged as they are."""
    if len(inputs.sources) == 1:
        return inputs.sources[0]
    x = torch.stack(inputs.deltas)
    shape, x = x.shape[1:], x.flatten(1)
    w = torch.tensor(weight, dtype=x.dtype)
    w = (w / w.sum() if normalize_weights else w).view(-1, 1)
    norms = x.norm(dim=-1, keepdim=True)
    unit = x / (norms + eps)
    mean = (w * unit).sum(0)
    length = mean.norm()
    if length < eps:
        merged = (w * x).sum(0)
    else:
        mean = mean / length
        tangent = (w * (unit - (unit * mean).sum(-1, keepdim=True) * mean)).sum(0)
        angle = tangent.norm() + eps
        merged = (mean * angle.cos() + tangent * (angle.sin() / angle)) * (w * norms).sum()
    merged = merged.view(shape)
    return merged if inputs.base is None else merged + inputs.base


def karcher(inputs: Inputs, *, max_iter: int, tol: float) -> Tensor:
    """In the inputs' dtype but for the norms."""
    if len(inputs.sources) == 1:
        return inputs.sources[0]
    norms = [wide(x).norm() for x in inputs.sources]
    unit = [x / norm for x, norm in zip(inputs.sources, norms, strict=True) if norm > tol]
    if not unit:
        return torch.zeros_like(inputs.sources[0])
    share = 1 / len(unit)
    mean = torch.zeros_like(unit[0])
    for u in unit:
        mean = mean + u * share
    length = wide(mean).norm()
    mean = mean / length if length >= tol else unit[0].clone()
    for _ in range(max_iter):
        tangent = torch.zeros_like(mean)
        for u in unit:
            cosine = torch.dot(u.reshape(-1), mean.reshape(-1)).clamp(-1, 1)
            theta = cosine.acos()
            if theta >= tol:
                tangent = tangent + share * (theta / theta.sin()) * (u - cosine * mean)
        angle = wide(tangent).norm()
        if angle < tol:
            break
        mean = angle.cos() * mean + angle.sin() * (tangent / angle)
        mean = mean / wide(mean).norm()
    parts = [norm * (1 / len(norms)) for norm in norms]
    scale: Tensor = reduce(torch.add, parts)
    merged: Tensor = mean * scale.to(mean.dtype)
    return merged
