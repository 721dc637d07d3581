"""What all tests share: no windows, and no time limit on single property-test examples."""

import hypothesis
import matplotlib

matplotlib.use("Agg")
hypothesis.settings.register_profile("mamlpp", deadline=None)  # shared cores make times jump
hypothesis.settings.load_profile("mamlpp")
