"""Checks of set 2: the size of the gradient on its way back, and how many digits are true."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mamlpp.checks.core import Function, attempt, generator, judge, normal, passed, pick, plain
from mamlpp.checks.set_1_inner_loop import draw_problem, linear, path_of


def gradient_norms(student: Function, seed: int = 0) -> None:
    """Exercise 2.1: `gradient_norms(loss, path)`: the norm of d loss / dθ_i for each θ_i."""
    draw = generator(seed)
    for steps in (2, 4):
        weights, x, y, rate = draw_problem(draw)
        path = path_of(weights, x, y, rate, steps)
        loss = F.cross_entropy(linear(path[-1], normal(draw, *x.shape)), y)
        flat = [torch.autograd.grad(loss, list(w.values()), retain_graph=True) for w in path]
        squares = [sum(g.square().sum().item() for g in gradients) for gradients in flat]
        expected = [math.sqrt(square) for square in squares]
        found = plain(attempt(student, loss, path))
        judge(
            student,
            found,
            expected,
            {
                "these are the squared norms: the square root is missing": squares,
                "it adds the norms of the single tensors: the norm of all together is the root of "
                "the sum of their squares": [
                    sum(g.norm().item() for g in gradients) for gradients in flat
                ],
                "it looks at the first tensor of each θ_i alone": [
                    g[0].norm().item() for g in flat
                ],
                "the order is the path's: θ_0 first, θ_N last": expected[::-1],
                "the gradient with respect to θ_0 is missing: it is the meta-gradient": expected[
                    1:
                ],
                "it gives the meta-gradient's norm alone: one for each θ_i is asked": expected[0],
                "these are the norms of the weights, not of the gradients": [
                    math.sqrt(sum(w.square().sum().item() for w in weights.values()))
                    for weights in path
                ],
            },
        )
    passed(student)


def growth(student: Function, seed: int = 0) -> None:
    """Exercise 2.2: `growth(curvatures, rate, steps)` is the largest |1 − αλ|^N."""
    draw = generator(seed)
    for low, high in ((-0.5, 10.0), (-4.0, 3.0), (0.5, 2.0)):
        middle = torch.rand(2, generator=draw).tolist()
        curvatures, rate = [*middle, high, low], pick(draw, [0.3, 0.35, 0.4])
        steps = pick(draw, [3, 5])
        factors = [1 - rate * curvature for curvature in curvatures]
        judge(
            student,
            attempt(student, curvatures, rate, steps),
            max(map(abs, factors)) ** steps,
            {
                "it looks at the curvature of largest size alone, but 1 − αλ may be larger for "
                "another": abs(1 - rate * max(curvatures, key=abs)) ** steps,
                "it looks at the largest curvature alone: a negative one makes the gradient grow "
                "too": abs(1 - rate * high) ** steps,
                "1 − αλ below −1 makes the gradient grow as well: take absolute values": max(
                    factors
                )
                ** steps,
                "the factor of a step is |1 − αλ|: the sign of αλ": max(
                    abs(1 + rate * curvature) for curvature in curvatures
                )
                ** steps,
                "N steps multiply: the factor to the power of N, not N times": steps
                * max(map(abs, factors)),
                "the rate is missing: the factor is 1 − αλ, not 1 − λ": max(
                    abs(1 - curvature) for curvature in curvatures
                )
                ** steps,
                "it is the growth of a single step": max(map(abs, factors)),
            },
        )
    passed(student)


def digits(student: Function, seed: int = 0) -> None:
    """Exercise 2.3: `digits(x, exact)` is −log₁₀ of the relative error, computed in float64."""
    draw = generator(seed)
    for size in (1e-4, 1e-2, 3e-8):
        exact = 20 * normal(draw, 7)
        x = (exact * (1 + size * normal(draw, 7))).float()
        error, length = (x.double() - exact).norm().item(), exact.norm().item()
        rounded = (x - exact.float()).norm().item()
        judge(
            student,
            attempt(student, x, exact),
            -math.log10(error / length),
            {
                "the sign: an error of 10⁻³ is 3 digits, not −3": math.log10(error / length),
                "it uses the natural logarithm: digits are decimal": -math.log(error / length),
                "these are binary digits: use the logarithm to base 10": -math.log2(error / length),
                "the error is absolute: divide it by the norm of the exact one": (
                    -math.log10(error)
                ),
                "the error is squared, which doubles the digits: take the norm, not its square": (
                    -2 * math.log10(error / length)
                ),
                "it compares in float32, which rounds the exact numbers: compare in float64": (
                    -math.log10(rounded / length) if rounded else math.inf
                ),
                "it is the relative error itself, not its digits": error / length,
            },
        )
    passed(student)


def predicted_steps(student: Function, seed: int = 0) -> None:
    """Exercise 2.4: `predicted_steps(growth, bits)`: the first whole N with growth^N ≥ 2^bits."""
    draw = generator(seed)
    for bits in (24, 53, 11):
        rate = 1.3 + 3 * torch.rand((), generator=draw).item()
        exact = bits / math.log2(rate)
        judge(
            student,
            attempt(student, rate, bits),
            math.ceil(exact),
            {
                "one step short: after that many steps a little is left; round up": math.floor(
                    exact
                ),
                "steps are whole: round up": exact,
                "it takes bits for decimal digits: 24 bits are 2²⁴, not 10²⁴": math.ceil(
                    bits / math.log10(rate)
                ),
                "two logarithms of different base are mixed: 2^bits = growth^N": math.ceil(
                    bits / math.log(rate)
                ),
                "growth multiplies: N is a ratio of logarithms, not bits divided by the growth": (
                    math.ceil(bits / rate)
                ),
            },
        )
    passed(student)


def first_lost(student: Function, seed: int = 0) -> None:
    """Exercise 2.5: `first_lost(gradient, depths, least)`: where digits first fall below `least`.

    The digits of the made-up gradients fall, recover once, and fall again.
    """
    draw = generator(seed)
    depths, least = [3, 5, 7, 9, 11, 13], 3.0
    right = [6.5, 5.2, 2.5, 4.5, 2.0, 1.0]
    exact = {n: normal(draw, 9) for n in depths}
    noise = {n: normal(draw, 9) for n in depths}

    def gradient_with(digits_of: dict[int, float]) -> Function:
        def gradient(steps: int, dtype: torch.dtype) -> Tensor:
            if dtype == torch.float64:
                return exact[steps]
            error = noise[steps] * exact[steps].norm() / noise[steps].norm()
            return (exact[steps] + 10 ** -digits_of[steps] * error).to(dtype)

        return gradient

    found = attempt(student, gradient_with(dict(zip(depths, right, strict=True))), depths, least)
    judge(
        student,
        found,
        7,
        {
            "it gives the place in the list of depths, not the depth": 2,
            "it gives the last N that is still good: the first that is not is asked": 5,
            "it gives the N from which all later ones are bad; the first bad one is asked, and "
            "digits may recover in between": 11,
            "it gives the last bad N: stop at the first": 13,
            "it gives the first N that has enough digits: the other way round": 3,
            "it finds nothing: is one gradient computed in float32 and the other in float64?": 0,
        },
    )
    never = attempt(student, gradient_with(dict.fromkeys(depths, 6.0)), depths, least)
    judge(student, never, 0, {}, otherwise="every depth keeps enough digits, so the answer is 0")
    passed(student)
