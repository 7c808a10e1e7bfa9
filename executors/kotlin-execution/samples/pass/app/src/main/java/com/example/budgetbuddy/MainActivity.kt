package com.example.budgetbuddy

import android.app.Activity
import android.os.Bundle
import android.widget.TextView

class MainActivity : Activity() {
    private val spent = mapOf("rent" to 450, "food" to 210)

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(TextView(this).apply { text = "Spent: ${spent.values.sum()} €" })
    }
}
