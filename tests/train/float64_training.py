"""StyleGAN2's training step in float64, written from the formulas of the papers.

Papers: Karras et al. 2018 (StyleGAN), 2020a (StyleGAN2) and 2020b (StyleGAN2-ADA), Mescheder et al. 2018 (R1).
It shares the names of the tensors and the fields of the configuration with the package, and no code. Random numbers are
given: a list of tensors in the order in which a step draws them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]
FIR = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
FIR_2D = torch.outer(FIR, FIR) / 64
BETA2 = 0.99
ADAM_EPS = 1e-8


class ReferenceRun:
    """A run of training. G and D are trained in place.

    Attributes:
        G: Parameters and buffers of the generator, float64 by name.
        D: Those of the discriminator.
        G_ema: The moving average of G.
        adam: For each network, the step counter and second moment of each parameter.
    """

    def __init__(self, cfg, G: Tensors, D: Tensors, G_parameters: Sequence[str], D_parameters: Sequence[str]) -> None:
        self.cfg = cfg
        self.G, self.D = _copy(G), _copy(D)
        self.G_ema = _copy(G)
        self.parameters = {"G": list(G_parameters), "D": list(D_parameters)}
        self.adam = {
            "G": {k: (0, torch.zeros_like(self.G[k])) for k in G_parameters},
            "D": {k: (0, torch.zeros_like(self.D[k])) for k in D_parameters},
        }
        self.pl_mean = torch.zeros([], dtype=torch.float64)
        self.nimg = self.step = 0

    def train_step(self, images: Tensor, labels: Tensor | None, draws: list[Tensor]) -> None:
        """One step on real images float64 `[N, C, R, R]` in [-1, 1]. Every random number is taken from `draws`."""
        cfg = self.cfg
        self.draws = draws
        self.phase("G", self.generator_loss, images, labels)
        if cfg.pl_weight and self.step % cfg.g_reg_interval == 0:
            self.phase("G", self.path_length_loss, images, labels)
        self.phase("D", self.discriminator_loss, images, labels)
        if cfg.r1_gamma and self.step % cfg.d_reg_interval == 0:
            self.phase("D", self.r1_loss, images, labels)
        half_life = cfg.ema_kimg * 1000
        if cfg.ema_rampup is not None:
            half_life = min(half_life, self.nimg * cfg.ema_rampup)
        beta = 0.5 ** (cfg.batch / half_life) if half_life > 0 else 0.0
        for name, value in self.G.items():
            is_parameter = name in self.parameters["G"]
            self.G_ema[name] = beta * self.G_ema[name] + (1 - beta) * value if is_parameter else value.clone()
        self.nimg += cfg.batch
        self.step += 1
        assert not self.draws, "every random number is used"

    def phase(self, network: str, loss, images: Tensor, labels: Tensor | None) -> None:
        """One step of Adam on the mean of the losses of all parts of the batch."""
        cfg = self.cfg
        part = cfg.batch_gpu or cfg.batch
        tensors = getattr(self, network)
        for name in self.parameters[network]:
            tensors[name] = tensors[name].detach().requires_grad_()
        parameters = [tensors[name] for name in self.parameters[network]]
        total = [torch.zeros_like(p) for p in parameters]
        for start in range(0, cfg.batch, part):
            value = loss(images[start : start + part], None if labels is None else labels[start : start + part])
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            for t, g in zip(total, gradients, strict=True):
                if g is not None:
                    t += g / (cfg.batch // part)
        interval = cfg.g_reg_interval if network == "G" else cfg.d_reg_interval
        self.adam_step(network, dict(zip(self.parameters[network], total, strict=True)), interval / (interval + 1))

    def adam_step(self, network: str, gradients: Tensors, ratio: float) -> None:
        """Adam without a first moment (beta1 = 0). `ratio` is that of lazy regularisation."""
        tensors, beta2 = getattr(self, network), BETA2**ratio
        for name, g in gradients.items():
            count, moment = self.adam[network][name]
            count, moment = count + 1, beta2 * moment + (1 - beta2) * g**2
            self.adam[network][name] = count, moment
            corrected = moment / (1 - beta2**count)
            tensors[name] = tensors[name].detach() - self.cfg.lr * ratio * g / (corrected.sqrt() + ADAM_EPS)

    # --- losses ----------------------------------------------------------------------------------------------------

    def generator_loss(self, images: Tensor, c: Tensor | None) -> Tensor:
        fake = self.synthesis(self.random_ws(len(images), c))
        return -F.logsigmoid(self.discriminator(fake, c)).mean()

    def path_length_loss(self, images: Tensor, c: Tensor | None) -> Tensor:
        cfg = self.cfg
        ws = self.random_ws(len(images) // cfg.pl_batch_shrink, c)
        fake = self.synthesis(ws)
        y = self.draws.pop(0) / math.sqrt(fake.shape[2] * fake.shape[3])
        (product,) = torch.autograd.grad((fake * y).sum(), ws, create_graph=True)
        lengths = (product**2).sum(2).mean(1) ** 0.5
        mean = (1 - cfg.pl_decay) * self.pl_mean + cfg.pl_decay * lengths.mean()
        self.pl_mean = mean.detach()
        return ((lengths - mean) ** 2).mean() * cfg.pl_weight * cfg.g_reg_interval

    def discriminator_loss(self, images: Tensor, c: Tensor | None) -> Tensor:
        fake = self.synthesis(self.random_ws(len(images), c)).detach()
        return -F.logsigmoid(-self.discriminator(fake, c)).mean() - F.logsigmoid(self.discriminator(images, c)).mean()

    def r1_loss(self, images: Tensor, c: Tensor | None) -> Tensor:
        images = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(images, c).sum(), images, create_graph=True)
        return (gradient**2).sum((1, 2, 3)).mean() * self.cfg.r1_gamma / 2 * self.cfg.d_reg_interval

    # --- networks --------------------------------------------------------------------------------------------------

    def random_ws(self, count: int, c: Tensor | None) -> Tensor:
        """ws of `count` random latents with style mixing. The first latent of each image moves w_avg."""
        cfg = self.cfg.generator
        c = None if c is None else c[:count]
        w = self.mapping(self.G, self.draws.pop(0)[:count], c)
        self.G["mapping.w_avg"] = cfg.w_avg_beta * self.G["mapping.w_avg"] + (1 - cfg.w_avg_beta) * w.detach().mean(0)
        num_ws = 2 * int(math.log2(cfg.resolution)) - 2
        columns = [w] * num_ws
        if self.cfg.mixing_prob > 0 and self.draws.pop(0) < self.cfg.mixing_prob:
            crossover = int(self.draws.pop(0))
            second = self.mapping(self.G, self.draws.pop(0), c)
            columns = [w] * crossover + [second] * (num_ws - crossover)
        return torch.stack(columns, 1)

    def mapping(self, p: Tensors, z: Tensor | None, c: Tensor | None) -> Tensor:
        parts = [] if z is None else [z]
        if c is not None:
            parts.append(linear(p, "mapping.embed", c))
        x = torch.cat([part / (part**2).mean(1, keepdim=True).add(1e-8) ** 0.5 for part in parts], 1)
        for i in range(sum(k.startswith("mapping.fc") and k.endswith("weight") for k in p)):
            x = lrelu(linear(p, f"mapping.fc{i}", x, 0.01))
        return x

    def synthesis(self, ws: Tensor) -> Tensor:
        """Images `[N, C, R, R]` of the skip architecture. Each image has its own modulated weights and fresh noise."""
        p = self.G
        x, image, i = p["synthesis.b4.const"].expand(len(ws), -1, -1, -1), None, 0
        for res in [2**k for k in range(2, int(math.log2(self.cfg.generator.resolution)) + 1)]:
            for name, up in [(f"synthesis.b{res}.conv0", True), (f"synthesis.b{res}.conv1", False)][res == 4 :]:
                x, i = self.layer(name, x, ws[:, i], up), i + 1
            name = f"synthesis.b{res}.torgb"
            style = linear(p, f"{name}.affine", ws[:, i])
            weight = p[f"{name}.weight"] / math.sqrt(x.shape[1])
            y = torch.stack([F.conv2d(a[None], weight * s[:, None, None])[0] for a, s in zip(x, style, strict=True)])
            y = y + p[f"{name}.bias"][:, None, None]
            image = y if image is None else y + fir(F.pad(zero_insert(image), (2, 1, 2, 1))) * 4
        return image

    def layer(self, name: str, x: Tensor, w: Tensor, up: bool) -> Tensor:
        p = self.G
        style = linear(p, f"{name}.affine", w)
        weight = p[f"{name}.weight"] * style[:, None, :, None, None]
        weight = weight / ((weight**2).sum((2, 3, 4), keepdim=True) + 1e-8) ** 0.5
        x = F.pad(zero_insert(x), (2, 1, 2, 1)) if up else F.pad(x, (1, 1, 1, 1))
        weight = weight.flip(3, 4) if up else weight  # a transposed convolution is a correlation with the flipped kernel
        x = torch.stack([F.conv2d(a[None], b)[0] for a, b in zip(x, weight, strict=True)])
        x = fir(F.pad(x, (1, 1, 1, 1))) * 4 if up else x
        return lrelu(x + self.draws.pop(0) * p[f"{name}.noise_strength"] + p[f"{name}.bias"][:, None, None])

    def discriminator(self, image: Tensor, c: Tensor | None) -> Tensor:
        """Logits `[N, 1]` of the architectures resnet and orig."""
        p, res = self.D, image.shape[2]
        x = self.conv(f"b{res}.fromrgb", image)
        while res > 4:
            y = self.conv(f"b{res}.conv1", self.conv(f"b{res}.conv0", x), down=True)
            if self.cfg.discriminator.architecture == "resnet":
                y = (y + self.conv(f"b{res}.skip", x, down=True, is_linear=True)) / math.sqrt(2)
            x, res = y, res // 2
        x = self.conv("b4.conv", with_deviation(x, self.cfg.discriminator.mbstd_group_size))
        x = lrelu(linear(p, "b4.fc", x.flatten(1)))
        y = linear(p, "b4.out", x)
        return y if c is None else (y * self.mapping(p, None, c)).sum(1, keepdim=True) / math.sqrt(y.shape[1])

    def conv(self, name: str, x: Tensor, down: bool = False, is_linear: bool = False) -> Tensor:
        weight = self.D[f"{name}.weight"]
        edge = weight.shape[2] // 2 + down
        x = F.pad(x, (edge, edge, edge, edge))
        x = F.conv2d(fir(x) if down else x, weight / math.sqrt(weight[0].numel()))
        x = x[:, :, ::2, ::2] if down else x
        return x if is_linear else lrelu(x + self.D[f"{name}.bias"][:, None, None])


def linear(p: Tensors, name: str, x: Tensor, lr: float = 1.0) -> Tensor:
    """A fully connected layer with an equalised learning rate."""
    weight = p[f"{name}.weight"]
    return x @ weight.T * (lr / math.sqrt(weight.shape[1])) + p[f"{name}.bias"] * lr


def lrelu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def zero_insert(x: Tensor) -> Tensor:
    y = torch.zeros(*x.shape[:2], x.shape[2], 2, x.shape[3], 2, dtype=x.dtype)
    y[:, :, :, 0, :, 0] = x
    return y.reshape(*x.shape[:2], x.shape[2] * 2, x.shape[3] * 2)


def fir(x: Tensor) -> Tensor:
    """Filter each channel, without padding. The filter is symmetric."""
    return F.conv2d(x.flatten(0, 1)[:, None], FIR_2D[None, None]).unflatten(0, x.shape[:2])[:, :, 0]


def with_deviation(x: Tensor, group: int) -> Tensor:
    """Append the minibatch standard deviation. Samples n, n + N/G, n + 2N/G, ... form a group."""
    n = len(x)
    groups = n // min(group, n)
    deviations = [(x[i::groups].var(0, unbiased=False) + 1e-8).sqrt().mean() for i in range(groups)]
    extra = torch.stack([deviations[i % groups] for i in range(n)])
    return torch.cat([x, extra[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


def _copy(tensors: Tensors) -> Tensors:
    return {k: v.detach().double().clone() for k, v in tensors.items()}
