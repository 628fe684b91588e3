"""Images: `grids` converts to uint8 and tiles, `similarity` has PSNR and SSIM, `pictures` decodes picture files."""
