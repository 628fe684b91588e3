"""Networks in whose features images are compared: Inception, EfficientNet-Lite0 and LPIPS."""
