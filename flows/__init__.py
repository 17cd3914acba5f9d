"""The flows; whoever imports one has errors told as :mod:`flows.logs` says."""

from flows.logs import tell_errors_in_one_line

tell_errors_in_one_line()
