"""Post-training quantisation: from sample latents to plans with int8 and E4M3 layers.

Read the files in this order:

1. `number_formats.py`: the 8-bit formats, their limits, and rounding to them.
2. `calibration_latents.py`: the sample latents. `evaluation.py` runs networks on them.
3. `calibration.py`: measures every layer on the latents. Its result is a `LayerCalibration` per layer, which holds
   the scales of `scale_migration.py`, the histograms of `range_estimators.py`, and the moments of `gptq.py`.
4. `quantized_plans.py`: from the calibration to a `NetworkPlan` with 8 bits in every calibrated layer.
5. `sensitivity.py`: from that plan to the layers that must stay out of 8 bits. `quantization_record.py` describes both for
   `bundle.json`.
6. `qdq.py`: the Q/DQ nodes and 8-bit weights of a plan, for `export/convolution.py`. Here GPTQ rounds the weights.
"""
