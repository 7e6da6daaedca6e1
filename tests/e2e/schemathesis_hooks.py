"""What schemathesis sends as files: small pictures, each of its type."""

import schemathesis
from hypothesis import strategies as st

from pictures import make

SIZES = st.integers(1, 64)

schemathesis.openapi.media_type("image/jpeg", st.builds(make.jpeg, SIZES, SIZES))
schemathesis.openapi.media_type("image/png", st.builds(make.png, SIZES, SIZES))
schemathesis.openapi.media_type("image/webp", st.builds(make.webp, SIZES, SIZES))
