"""Signed provenance: pictures and videos that say, by a C2PA manifest, what made them.

- `certificates`: makes a certificate chain for trying, and checks the chain and key of a user.
- `credentials`: the chain and key in the user's settings, and the switch that leaves signatures out.
- `media_types`: the formats that hold a manifest.
- `signing`: writes the manifest into a picture or video.
- `verification`: reads it back, in a process of its own. `reading_process` is that process.
"""
