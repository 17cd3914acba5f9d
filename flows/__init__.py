"""The flows; whoever imports one has errors told as :mod:`tasks.engine.logs` says."""

from image_longitudinal.tasks.engine.logs import tell_errors_in_one_line

tell_errors_in_one_line()
