G28
G1 X500 F3000 ; outside
