; A bracket with six mistakes, each on a line of its own
G21
G90
G1 X20 Y20 F3000      ; before it is known where the nozzle is
G28
G1 Z0.3
G1 X180 Y20 E10
G2 X180 Y100 I0 J40 E20 ; bends to the left, as far as X = 140
G2 X180 Y20 I0 J-40 E30  ; bends to the right, to X = 220, though both ends are inside
G1 X20 E45
G1 X-5 Y100           ; off the bed
G2 X50 Y100 I10 J0    ; ends on no circle around there
G5 X10 Y10            ; no such command
G1 X1O Y20            ; the letter O
