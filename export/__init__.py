"""The export stage: a trained generator becomes a bundle of ONNX networks. No torch: weights are read as NumPy arrays.

Read the files in this order:

1. `pipeline.py`: `export_bundle`, from a checkpoint to a bundle. It calls everything below.
2. `network_plan.py`: a `NetworkPlan` says which graph form and number format each layer gets. Plans are data.
3. `default_plans.py`: the plan of each precision and backend. Plans with 8 bits come from `quantization/`.
4. `graph.py`: the ONNX builder. `mapping.py` writes the mapping network with it.
5. `synthesis.py`: from weights and a plan to the synthesis network, layer by layer.
   `synthesis_graph.py` is the builder that all layers share, with the folded constants. `styles.py` writes the styles
   of all layers, `convolution.py` one modulated convolution, `torgb.py` one torgb, and `phase_weights.py` computes kernels for
   2x upsampling. `style_offsets.py` adds the input that moves single styles.
6. `verify.py`: images of the bundle against those of PyTorch. `perceptual_accuracy.py` is one of its measures.
7. `tuning/`: `stylert tune`, the search for the fastest plan on one machine.

Steps 2, 3 and 5 are those of StyleGAN2. `networks/` has an exporter for each kind of network, which the pipeline calls.
The one of StyleGAN1 has plans of its own (`stylegan1_plan.py`) and writes its graph with `stylegan1.py`. The one of StyleGAN3
has no plans (`stylegan3.py`). `image_output.py` converts the image for all.

So the data goes: weights, plan -> graph -> file of the bundle -> images -> accuracy in `bundle.json`.

To add a graph form of the modulated convolution:

1. Name it in `ConvForm` in `network_plan.py`, and describe it at `LayerPlan`.
2. Write its nodes in `_convolution_and_fir` in `convolution.py`. `convolution()` gives them the number formats.
3. Run `tests/export/test_synthesis.py`. It takes every form from `ConvForm` and compares it with PyTorch in float64.
4. Add it to `PLAIN_FORMS` in `tuning/search.py`, so that `stylert tune` measures it on every machine.
5. Use it in `default_plans.py` for the backends where it is faster, with the figures in `docs/decisions/`.

Winograd's forms are made from operator nodes by `plugins/winograd_rewrite.py`. The runtime uses it, too: it gives the
operator nodes of a float32 network the forms of the processor (`runtime/layer_forms.py`).

A form of torgb takes the same steps with `RgbForm` and `to_rgb` in `torgb.py`; the search finds it by itself.
"""
