"""The server: bundles behind HTTP, with batches that form by themselves.

It needs the extra `serve`, but for `triton` and `ray_serve.deployment`.

- `server`: binds, loads, runs until a signal, drains. `settings` holds its limits, and `setting_ranges` those that it shares.
- `batcher`: dynamic batching in front of a generator.
- `named_bundle`: bundles by name.
- `network_calls`: one call with all threads, or several with few.
- `model_store`: the served bundles by name, and their replacement while requests run.
- `served_directions`: which file of directions belongs to which bundle.
- `application`: the routes as one application; `image_routes` and `service_routes` hold them.
- `network_facts`: what the page asks about a network. `page/` is the page, which `stylert.runtime.web` shares.
- `image_request`: the body of a request for images, checked. `image_response`: pictures as one file, ZIP, parts or JSON.
- `host_work`: threads for work that would hold up the event loop. `request_headers`: the headers, read in one place.
- `request_guard`: key, origin, sizes, time-outs and vanished clients, around every route.
- `http_protocol`: limits of connections and of slow headers, below the routes. `joined_head`: one packet for a short answer.
- `triton/`: a bundle as a model repository of Triton Inference Server.
- `ray_serve/`: a bundle as an application of Ray Serve.
- `request_limits`: how many strings and lists a body has.
- `refusals`: errors with their HTTP status. `metrics`: Prometheus. `request_log`: one JSON line per request.
"""
