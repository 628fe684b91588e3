"""Networks whose features compare images. All need torch.

- `extractors.py`: an image to a feature vector, by Inception (on which FID is defined) or EfficientNet-Lite0.
- `effnet_lite0.py`: EfficientNet-Lite0 with the weights of its package; `pyramid.py`: its maps at four resolutions.
- `st_vgg16.py`: VGG16 with the weights of ST-LPIPS, another extractor.
- `perceptual.py`: the distance of two images, by LPIPS or EfficientNet-Lite0.
- `local_weights.py`: weights from a local file of the user.
"""
