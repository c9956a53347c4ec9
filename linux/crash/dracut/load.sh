#!/bin/sh
# Before udev, so before any device and any program. The parameter is on the kernel's command line.
modprobe cleanslate
