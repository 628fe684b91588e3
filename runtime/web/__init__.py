"""A bundle as a static web page that makes its images in the browser, by ONNX Runtime Web.

- `site`: writes the folder of the page.
- `browser_networks`: the networks in the form for the browser.
- `browser_runtime`: the pinned files of ONNX Runtime Web, from npm or from a file.
- `site_directions`: the directions of a network as files of the page.
- `page/`: what differs from the page of `stylert serve`, whose other files are in `serving/page`. `transport.js` hands orders to
  `worker.js`, which uses `networks.js` (ONNX Runtime Web), `latents.js`, `directions.js`, `random_state.js` (seeds) and
  `picture_files.js`.
- `service_worker.js` and `page/isolation.js`: headers for threads, and the page without a network.
"""
