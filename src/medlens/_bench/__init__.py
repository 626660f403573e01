"""What `medlens bench` measures, and with what. (`_bench`: nothing in here is part of the public surface.)"""
