#!/usr/bin/env bash
# The decoder that opens for a WebM with alpha gives pictures without it, and what was hidden below shows.
#
# One would expect: a stream that says alpha_mode=1 decodes to yuva420p, or something says that alpha is left out.
# What happens (PyAV 18.1.0, libavcodec 62.28.102):
#   stream.metadata alpha_mode 1, decoder vp9: yuv420p
#   the same packets, decoder libvpx-vp9: yuva420p, alpha 0 to 255
# Alpha is a stream of its own in each packet's additional data, at which FFmpeg's own VP8 and VP9 decoders do not look.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env; env/bin/pip install -q av==18.1.0 numpy==2.3.5
env/bin/python - <<'P'
import av, numpy as np

print("PyAV", av.__version__, "libavcodec", ".".join(map(str, av.library_versions["libavcodec"])))
picture = np.zeros((64, 64, 4), np.uint8)
picture[..., 2] = 255  # blue everywhere
picture[:, :32, 3] = 255  # opaque on the left alone
with av.open("clear.webm", "w") as container:
    stream = container.add_stream("libvpx-vp9", rate=10, options={"auto-alt-ref": "0", "crf": "10", "b": "0"})
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuva420p"
    for index in range(3):
        frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="yuva420p")
        frame.pts = index
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
with av.open("clear.webm") as container:
    stream = container.streams.video[0]
    usual = next(container.decode(stream)).format.name
    name, said = stream.codec_context.name, stream.metadata["alpha_mode"]
    print(f"stream.metadata alpha_mode {said}, decoder {name}: {usual}")
with av.open("clear.webm") as container:
    decoder = av.CodecContext.create("libvpx-vp9", "r")
    frame = next(frame for packet in container.demux(video=0) for frame in decoder.decode(packet))
    alpha = np.frombuffer(frame.planes[3], np.uint8).reshape(64, -1)[:, :64]
    print(f"the same packets, decoder libvpx-vp9: {frame.format.name}, alpha {alpha.min()} to {alpha.max()}")
assert (name, usual, frame.format.name) == ("vp9", "yuv420p", "yuva420p"), "this has changed"
assert (alpha.min(), alpha.max()) == (0, 255), "this has changed"
P
