"""The synthesis network in the forms that `whole_network` measures, each a function from ws to images.

The forms of stylert are what users get: the ONNX file of a bundle in the torch backend. Weights are random.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from stylert.core.files.temporary import temporary_folder
from stylert.models.stylegan2.config import GeneratorConfig

#: A function from `ws` `[N, num_ws, w_dim]` to images.
Synthesis = Callable[[Any], Any]

#: Forms of stylert: from device memory to device memory, and from host memory to host memory as `Generator.synthesize`.
STYLERT_FORMS = ("kernels", "kernels_host")
#: Forms of plain PyTorch, in float16.
PEERS = ("eager", "channels_last", "compile")
#: Precisions of `kernels`. A bundle has the first two for the torch backend. The others are `eight_bit_network`.
PRECISIONS = ("fp16", "fp32", "int8", "fp8")


def random_network(config: GeneratorConfig) -> Any:
    """A synthesis network of random weights, with biases and noise strengths that are not zero."""
    import torch

    from stylert.models.stylegan2.networks import SynthesisNetwork

    torch.manual_seed(0)
    network = SynthesisNetwork(config).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith(("noise_strength", ".bias")) and "affine" not in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def torch_graph(network: Any, precision: str, calibration_ws: Any) -> Any:
    """The `TorchGraph` of a synthesis network, on the device of `calibration_ws`.

    Args:
        network: The network in PyTorch.
        precision: One of `PRECISIONS`.
        calibration_ws: `[N, num_ws, w_dim]`, the latents on which scales of 8 bits are found.
    """
    import onnx

    from stylert.benchmarks.kernels.eight_bit_network import eight_bit_network
    from stylert.export.default_plans import canonical_plan
    from stylert.export.synthesis import synthesis_model
    from stylert.models.checkpoint import GeneratorWeights
    from stylert.runtime.backends.torch_network.graph import TorchGraph

    arrays = {f"synthesis.{name}": tensor.float().cpu().numpy() for name, tensor in network.state_dict().items()}
    weights = GeneratorWeights(network.cfg, arrays, {})
    plan = canonical_plan(weights, "fp32" if precision == "fp32" else "fp16", None)
    with temporary_folder("kernels") as folder:
        file = folder / "synthesis.onnx"
        onnx.save(synthesis_model(weights, plan=plan), file)
        graph = TorchGraph(file, calibration_ws.device.type)
    if precision in ("int8", "fp8"):
        eight_bit_network(graph, precision, calibration_ws)
    return graph


def stylert_synthesis(graph: Any, form: str, ws: Any) -> Synthesis:
    """A form of `STYLERT_FORMS` for latents of the shape of `ws`, with its CUDA graph captured."""
    import torch

    from stylert.runtime.backends.torch import TorchSession
    from stylert.runtime.backends.torch_network.prepared_batch import PreparedBatch, exact_float32

    on_gpu = graph.device == "cuda"
    if form == "kernels_host":
        session = TorchSession(graph, graph.device, capture=on_gpu)

        def host_run(new_ws: Any) -> Any:
            return torch.from_numpy(session.run({"ws": new_ws.float().cpu().numpy()}))

        return host_run

    def refuse(reason: RuntimeError) -> None:
        raise reason

    with torch.inference_mode():
        prepared = PreparedBatch(graph, {"ws": ws}, refuse if on_gpu else None)

    def run(new_ws: Any) -> Any:
        with torch.inference_mode(), exact_float32():
            return prepared.run({"ws": new_ws})

    for _ in range(2 if on_gpu else 0):  # the second run captures
        run(ws)
    return run


def peer_synthesis(network: Any, form: str, device: str) -> Synthesis:
    """A form of `PEERS`."""
    import torch

    from stylert.benchmarks.peers.textbook_network import TextbookSynthesis

    synthesis: Any = TextbookSynthesis(copy.deepcopy(network), "grouped" if form == "eager" else "scaled").to(torch.float16)
    if form != "eager":
        synthesis = synthesis.to(memory_format=torch.channels_last)
    if form == "compile":
        torch._dynamo.reset()
        options: dict[str, Any] = {"mode": "max-autotune"} if device == "cuda" else {"backend": "aot_eager"}
        synthesis = torch.compile(synthesis, dynamic=False, **options)

    def run(ws: Any) -> Any:
        with torch.inference_mode():
            return synthesis(ws.to(torch.float16))

    return run
