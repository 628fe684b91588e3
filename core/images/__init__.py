"""Images: `grids` converts to uint8 and tiles, `similarity` has PSNR and SSIM, `pictures` decodes picture files.

`picture_parts` and `tiff_header` look at a picture file before a decoder does.
"""
